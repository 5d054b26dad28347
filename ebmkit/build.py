"""Calls -> parts, from the inside out; each shared part is built once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ebmkit.clocks import clock_of, spread
from ebmkit.errors import (
    BrokenPluginError,
    EbmkitError,
    Problem,
    SpecError,
    UserError,
    at_field,
    out_of_memory,
)
from ebmkit.fitness import unfit
from ebmkit.parameters import REQUIRED, parameters
from ebmkit.plan import FROM_DATA, Call, Planner, Shared
from ebmkit.registry import registry
from ebmkit.sections import TABLES
from ebmkit.spec import Spec


def section(name: str, table: Mapping[str, Any]) -> Any:
    """A table of a pipeline that is no part, as ``chains``, from its keys.

    Raises:
        SpecError: an unknown key, a wrong type, or a value out of range.
    """
    planner = Planner(Spec(tables={}), registry())
    call = planner.call(name, TABLES[name], table, name)
    if planner.problems:
        raise SpecError(planner.problems)
    return Builder({}).build(call)


class Builder:
    """Builds planned parts and collects what their constructors refuse."""

    def __init__(self, plans: Mapping[str, Any]) -> None:
        self.plans = plans
        self.problems: list[Problem] = []
        self.context: dict[str, Any] = {}
        """What the data decide, by parameter name; "generator" maps to a function that makes one."""
        self.training_steps: int | None = None
        """What an open schedule on the training clock is spread over, once it is known."""
        self._built: dict[str, Any] = {}

    def shared(self, kind: str) -> Any:
        """A part of the pipeline; None where there is none or it cannot be built."""
        if kind not in self._built:
            self._built[kind] = self.build(self.plans.get(kind))
        return self._built[kind]

    def build(self, value: Any) -> Any:
        """A planned value, with every call inside it made."""
        if isinstance(value, Shared):
            return self.shared(value.kind)
        if isinstance(value, list):
            return [self.build(item) for item in value]
        return self._call(value) if isinstance(value, Call) else value

    def _call(self, call: Call) -> Any:
        arguments = {name: self.build(value) for name, value in call.arguments.items()}
        if call.kind != "scheduler" and not self.problems:
            self._spread(call, arguments)
        if self.problems:
            return None
        for name in FROM_DATA:
            parameter = parameters(call.factory).get(name)
            if parameter is None or name in arguments:
                continue
            if name in self.context:
                value = self.context[name]
                arguments[name] = value() if name == "generator" else value
            elif parameter.default is REQUIRED:
                self.problems.append(Problem(f"{call.path}.{name}", "missing: state it"))
                return None
        try:
            if "generator" in self.context and "generator" not in arguments:
                return self._checked(call, self._with_private_randomness(call, arguments))
            return self._checked(call, call.factory(**arguments))
        except UserError as error:
            self._refused(call, error)
        except EbmkitError:
            raise
        except (ValueError, TypeError) as error:
            self._refused(call, error)
        except Exception as error:
            if out_of_memory(error):
                self.problems.append(
                    Problem(call.path, f"needs more memory than there is: {error}")
                )
                return None
            owner = call.component
            what = f"failed while it was built: {type(error).__name__}: {error}"
            said = owner.broken(what) if owner else f"{call.path} {what}"
            raise BrokenPluginError(said) from error
        return None

    def _refused(self, call: Call, error: Exception) -> None:
        self.problems.append(Problem(*at_field(call.path, str(error), parameters(call.factory))))

    def _checked(self, call: Call, part: Any) -> Any:
        if call.component is not None and (wrong := unfit(call.component, part)):
            raise BrokenPluginError(wrong)
        return part

    def _spread(self, call: Call, arguments: dict[str, Any]) -> None:
        """Give the run's length to schedules on the training clock that leave theirs open."""
        for name, planned in call.arguments.items():
            if isinstance(planned, Call) and planned.kind == "scheduler" and self.training_steps:
                if clock_of(arguments[name]) == "training":
                    try:
                        arguments[name] = spread(arguments[name], self.training_steps)
                    except ValueError as error:
                        self.problems.append(Problem(planned.path, str(error)))

    def _with_private_randomness(self, call: Call, arguments: dict[str, Any]) -> Any:
        # Many modules draw their first weights from torch's global generator. They are given a
        # seeded one for the time being, and the global state is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.context["generator"]().initial_seed())
            return call.factory(**arguments)
