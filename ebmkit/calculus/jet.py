"""Values that carry their derivatives along directions through any PyTorch code.

A jet holds a value y, the first derivatives J_i = ∂y·v_i and the summed second derivative
l = Σ_i ∂²y[v_i, v_i]. A rule says what a function of jets does to the three.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Rule = Callable[..., Any]
"""Takes what the function takes, with jets among the arguments; returns jets (or plain values)."""

_RULES: dict[Any, Rule] = {}


class NoRuleError(Exception):
    """A function that no rule is known for; the energy's derivatives are taken another way."""

    def __init__(self, function: str) -> None:
        super().__init__(function)
        self.function = function


class RandomError(NoRuleError):
    """A function that draws from torch's global generator, so that its derivatives are of nothing
    that a second call would give again."""


class Jet(torch.Tensor):
    """A tensor that carries its directional derivatives.

    It has the value's shape, dtype and device, and no data of its own: what bypasses the rules
    fails instead of losing the derivatives.
    """

    value: Tensor
    """(batch, ...)"""
    first: Tensor
    """(directions, batch, ...); expanded along the batch where all rows share it."""
    second: Tensor | None
    """(batch, ...), summed over the directions; None stands for zero."""
    aliased: bool = False
    """Whether another jet is a view of this one's value, or this one of another's."""

    @staticmethod
    def __new__(cls, value: Tensor, first: Tensor, second: Tensor | None) -> Jet:
        if value.is_complex():
            raise NoRuleError("complex numbers")
        jet: Jet = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, dtype=value.dtype, device=value.device
        )
        jet.value, jet.first, jet.second = value, first, second
        return jet

    def __init__(self, value: Tensor, first: Tensor, second: Tensor | None) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Jet(shape={tuple(self.value.shape)}, directions={len(self.first)})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func)
        if rule is None:
            rule = rule_for(func)
        if not torch.is_grad_enabled():
            raise NoRuleError(f"{name_of(func)} under no_grad")
        kwargs = dict(kwargs or {})
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        try:
            return rule(*args, **kwargs)
        except TypeError:
            # torch's functions take more ways of being called than their rules.
            if _fits(rule, args, kwargs):
                raise
            raise NoRuleError(f"{name_of(func)} called in this way") from None

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NoRuleError(str(func))


def _fits(rule: Rule, args: Any, kwargs: Any) -> bool:
    try:
        inspect.signature(rule).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def register_rule(function: Any, rule: Rule) -> None:
    """Register what a function of jets gives; a plugin calls it where its module is imported.

    ``function`` is a torch function, or any function that dispatches by ``__torch_function__``
    (``torch.overrides.handle_torch_function``, or ``ebmkit.with_rule``).
    """
    _RULES[function] = rule


def with_rule(rule: Rule) -> Callable[[Rule], Rule]:
    """Decorator for a function of tensors whose inside PyTorch code cannot be followed, such as
    ``autograd.Function.apply``: on jets ``rule`` is called in its place."""

    def decorate(function: Rule) -> Rule:
        def dispatching(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(a, Jet) for a in pytree.tree_leaves((args, kwargs))):
                return rule(*args, **kwargs)
            return function(*args, **kwargs)

        dispatching.__name__ = getattr(function, "__name__", "function")
        dispatching.__doc__ = function.__doc__
        return dispatching

    return decorate


def by_name(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: the rule of torch's functions and methods of these names."""

    def remember(rule: Rule) -> Rule:
        for name in names:
            _NAMED[name] = rule
        return rule

    return remember


_NAMED: dict[str, Rule] = {}


def rule_for(function: Any) -> Rule:
    """The rule of a function; NoRuleError where there is none. A torch function's is looked up by
    its name once: ``x.sum()``, ``torch.sum(x)`` and such are one rule."""
    name = name_of(function)
    rule = _NAMED.get(name) if _is_torchs(function) else None
    if rule is None and _is_torchs(function) and (base := _out_of_place(function)) in _NAMED:
        rule = _in_place(_NAMED[base], name)
    if rule is None:
        raise NoRuleError(name)
    _RULES[function] = rule
    return rule


def _out_of_place(function: Any) -> str:
    """``add`` of ``add_`` (a method) and of ``__iadd__`` (``+=``)."""
    name: str = getattr(function, "__name__", "")
    if name.startswith("__i"):
        return name[3:-2]
    return name[:-1] if name.endswith("_") else ""


def _in_place(rule: Rule, name: str) -> Rule:
    def rebinding(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Jet):
            raise NoRuleError(f"{name} of a value that does not depend on x")
        result = rule(x, *args, **kwargs)
        if not isinstance(result, Jet):
            raise NoRuleError(name)
        return overwrite(x, result, name)

    return rebinding


def overwrite(jet: Jet, result: Jet, name: str) -> Jet:
    """Let a jet hold the result of a function that works in place."""
    if jet.aliased or result.value.shape != jet.value.shape:
        raise NoRuleError(f"{name} of a view, or of what has views")
    kept = jet.dtype
    jet.value, jet.first = result.value.to(kept), result.first.to(kept)
    jet.second = None if result.second is None else result.second.to(kept)
    return jet


def name_of(function: Any) -> str:
    """A function's name; ``__add__`` and ``add`` are one, ``add_`` (in place) is another."""
    name: str = getattr(function, "__name__", str(function))
    if name == "__get__":
        return f"Tensor.{getattr(function.__self__, '__name__', '')}"
    return name[2:-2] if name.startswith("__") and name.endswith("__") else name


def _is_torchs(function: Any) -> bool:
    module = getattr(function, "__module__", None)
    return module is None or module.partition(".")[0] == "torch"


def value(x: Any) -> Any:
    """A jet's value; anything else as it is."""
    return x.value if isinstance(x, Jet) else x


def values(tree: Any) -> Any:
    """The same nest of arguments with each jet's value in its place."""
    return pytree.tree_map(value, tree)


def jets_in(*tree: Any) -> list[Jet]:
    """The jets among the arguments."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Jet)]


def shared(first: Tensor) -> bool:
    """Whether all rows have the same first derivatives, held once."""
    return first.ndim > 1 and first.shape[1] > 1 and first.stride(1) == 0


def lifted(first: Tensor, ndim: int) -> Tensor:
    """First derivatives of a value that broadcasts to ``ndim`` axes, so that theirs do too."""
    missing = ndim + 1 - first.ndim
    return first if missing <= 0 else first.reshape(len(first), *[1] * missing, *first.shape[1:])


def plus(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of second derivatives, None standing for zero."""
    if one is None or other is None:
        return one if other is None else other
    return one + other
