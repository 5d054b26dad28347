"""Any torch.optim optimizer by name, its keys checked before anything is built."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from ebmkit.errors import did_you_mean
from ebmkit.plan import Call, Planner, resolved

# LBFGS calls the loss several times a step, SparseAdam takes sparse gradients only, and Muon no
# biases.
_UNFIT = {"LBFGS", "SparseAdam", "Muon"}
# For small networks a step by torch's fused kernels takes a third of the time; on other devices torch
# chooses well by itself.
_FUSED = {"adam", "adamw", "sgd"}
_WAYS = {"capturable", "differentiable"}
_CHOICES = {"fused", "foreach"}


class OptimizerPlan(NamedTuple):
    """A torch.optim class, its keys, and the learning rate, which may be a schedule."""

    name: str
    factory: type[torch.optim.Optimizer]
    options: dict[str, Any]
    lr: Any
    """A number, a ``Call``, a live schedule, or None for the class's own default."""

    def build(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        options, parameters = dict(self.options), list(parameters)
        if isinstance(self.lr, int | float):
            options["lr"] = self.lr
        on_cpu = all(p.device.type == "cpu" and p.is_floating_point() for p in parameters)
        stated = any(options.get(way) for way in _WAYS) or bool(_CHOICES & options.keys())
        if on_cpu and self.name in _FUSED and not stated:
            options["fused"] = True
        return self.factory(parameters, **options)

    def resolved(self) -> dict[str, Any]:
        lr = self.lr if self.lr is not None else _defaults(self.factory).get("lr")
        # TOML has no word for None, neither alone nor within a list.
        defaults = {
            k: v
            for k, v in _defaults(self.factory).items()
            if v is not None and not (isinstance(v, tuple) and None in v)
        }
        return {"use": self.name, **resolved(defaults | self.options), "lr": resolved(lr)}


def plan_optimizer(planner: Planner, table: Mapping[str, Any], path: str) -> OptimizerPlan | None:
    """The plan of an optimizer's table; None, with its problems reported, where it has any."""
    before = len(planner.problems)
    classes = _classes()
    name = table.get("use", "adam")
    key = _key(name) if isinstance(name, str) else ""
    if key not in classes:
        names = sorted(classes)
        planner.report(
            f"{path}.use",
            f"torch.optim has no optimizer {name!r} that fits{did_you_mean(key, names)} "
            f"(known: {', '.join(names)})",
        )
        return None
    factory = classes[key]
    defaults = _defaults(factory)
    options = {}
    lr: Any = None
    for option, value in table.items():
        here = f"{path}.{option}"
        if option == "use":
            continue
        if option not in defaults:
            known = ", ".join(defaults)
            planner.report(
                here, f"{name} has no such key{did_you_mean(option, defaults)} (known: {known})"
            )
        elif option == "lr" and not _is_number(value):
            lr = planner.part("scheduler", value, here)
        elif complaint := _complaint(value, defaults[option]):
            planner.report(here, f"expected {complaint}, got {value!r}")
        elif option == "lr":
            lr = float(value)
        else:
            options[option] = tuple(value) if isinstance(value, list) else value
    if len(planner.problems) > before:
        return None
    plan = OptimizerPlan(key, factory, options, lr)
    try:
        plan.build([torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError, RuntimeError) as error:
        planner.report(path, f"{name} refuses its keys: {error}")
        return None
    return plan


def schedule_of(plan: OptimizerPlan, build: Callable[[Call], Any]) -> Any:
    """The learning rate's schedule, or None where it is a number."""
    if isinstance(plan.lr, Call):
        return build(plan.lr)
    return None if plan.lr is None or _is_number(plan.lr) else plan.lr


@functools.cache
def _classes() -> dict[str, type[torch.optim.Optimizer]]:
    found = {}
    for name, value in vars(torch.optim).items():
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer):
            if value is not torch.optim.Optimizer and name not in _UNFIT:
                found[_key(name)] = value
    return found


def _key(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def _defaults(factory: type[torch.optim.Optimizer]) -> dict[str, Any]:
    signature = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in signature if p.name != "params"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _complaint(value: Any, default: Any) -> str:
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if _is_number(value) and not abs(value) <= sys.float_info.max:
        return "a finite number"
    if isinstance(default, int | float):
        return "" if _is_number(value) else "a number"
    if isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(default)
        fits = fits and all(map(_is_number, value))
        return "" if fits else f"a list of {len(default)} numbers"
    return "" if isinstance(value, bool | int | float) else "a number, true or false"
