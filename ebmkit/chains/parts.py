"""Parts of a step that are compiled where the step as a whole cannot be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebmkit.chains.chunks import agreeing, copied, graphs_kept_with, keep
from ebmkit.graphs import tensors_of
from ebmkit.holding import with_tensors
from ebmkit.lowering import (
    compiled,
    facts,
    layout,
    made_graph,
    quietly,
    surroundings,
    tensors_in,
    without_autocast,
)
from ebmkit.protocols import Energy

P = ParamSpec("P")
R = TypeVar("R")
Part = Callable[..., Any]
"""(energy, trees of tensors, keywords) -> a tree of tensors"""
Caller = Callable[[Part, Energy, tuple[Any, ...], dict[str, Any]], Any]

_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def traceable(
    function: Callable[Concatenate[Energy, P], R],
) -> Callable[Concatenate[Energy, P], R]:
    """Mark a part of a sampler's step that can be traced into a graph, where the whole step cannot.

    The function is called as ``function(energy, *arguments, **fixed)``. Its positional arguments are
    tensors, or trees of such as NamedTuples, and so is what it returns; keywords are numbers and the
    like, which become part of a graph. It is pure and branches on no value of a tensor. Where chains
    are compiled, each such part is, once for every set of keywords; where they run eagerly the
    function is called as it stands. A part may call others, which then belong to it. The sampler's
    class says ``traceable = False``.
    """

    @functools.wraps(function)
    def part(energy: Energy, /, *arguments: P.args, **fixed: P.kwargs) -> R:
        caller = _caller.get()
        if caller is None:
            return function(energy, *arguments, **fixed)
        return caller(function, energy, arguments, fixed)  # type: ignore[no-any-return]

    return part


@contextmanager
def called_by(caller: Caller | None) -> Iterator[None]:
    """Parts are called by ``caller`` for a while; by nobody but themselves where that is None."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


class Taken(NamedTuple):
    """An energy taken apart."""

    module: nn.Module | None
    """The innermost one."""
    tensors: Any
    """What is bound to the energy, or held by what is around its module: a tree of tensors."""
    what: Any
    """All else that tells it from others; it can be compared."""
    alone: bool
    """Whether nothing is inside but the module: what a plain function holds may change unseen, and may
    keep the module alive."""
    again: Callable[[Any], Energy]
    """The energy with such tensors as ``tensors``."""


def taken_apart(energy: Any) -> Taken:
    """An energy's module and tensors, through what is bound to it by name and through attrs classes
    around it, as those of rescaled energies."""
    if isinstance(energy, functools.partial) and not energy.args:
        inner, bound = taken_apart(energy.func), energy.keywords
        return Taken(
            inner.module,
            (inner.tensors, bound),
            (functools.partial, inner.what),
            inner.alone,
            lambda given: functools.partial(inner.again(given[0]), **given[1]),
        )
    kind = type(energy)
    if isinstance(energy, nn.Module) or not attrs.has(kind):
        owner = energy if isinstance(energy, nn.Module) else getattr(energy, "__self__", None)
        module = owner if isinstance(owner, nn.Module) else None
        called = None if module is energy else energy if module is None else energy.__func__
        return Taken(module, (), called, module is not None, lambda _: energy)
    fields = {str(f.alias): getattr(energy, f.name) for f in attrs.fields(kind) if f.init}
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    others = {n: v for n, v in fields.items() if n not in tensors and not callable(v)}
    inside = {n: taken_apart(v) for n, v in fields.items() if n not in tensors and callable(v)}

    def again(given: Any) -> Energy:
        within = {name: inner.again(given[1][name]) for name, inner in inside.items()}
        rebuilt: Any = kind(**others, **given[0], **within)
        return rebuilt  # type: ignore[no-any-return]

    modules = [inner.module for inner in inside.values()]
    return Taken(
        modules[0] if modules else None,
        (tensors, {name: inner.tensors for name, inner in inside.items()}),
        (kind, tuple(others.items()), tuple((n, i.what) for n, i in inside.items())),
        all(inner.alone for inner in inside.values()),
        again,
    )


class CompiledParts:
    """Calls the parts of a run's steps by graphs, each made at the first call of its part."""

    def __init__(self, energy: Energy) -> None:
        self.whole = taken_apart(energy)
        self.energy = energy
        self._tensors: Mapping[str, Tensor] | None = None
        """The module's, which stay the same while chains run."""
        self._runs: dict[Any, Callable[..., Any]] = {}

    def __call__(
        self, function: Part, energy: Energy, arguments: tuple[Any, ...], fixed: dict[str, Any]
    ) -> Any:
        taken = self.whole if energy is self.energy else taken_apart(energy)
        if taken.module is not self.whole.module:
            return function(energy, *arguments, **fixed)
        if self._tensors is None:
            self._tensors = {} if taken.module is None else tensors_of(taken.module)
        key = function, tuple(fixed.items()), taken.what
        run = self._runs.get(key)
        given = self._tensors, taken.tensors, arguments
        with torch.no_grad(), without_autocast(arguments_device(arguments)):
            if run is None:
                run = self._runs[key] = self._made(key, taken, given)
            return run(*given)

    def _made(self, key: Any, taken: Taken, given: Any) -> Callable[..., Any]:
        function, fixed, _ = key
        module, (_, held, arguments) = taken.module, given
        device = arguments_device(arguments)
        around = () if module is None else facts(module)
        full = *key, layout((held, arguments)), around, surroundings(device)
        kept = graphs_kept_with(module) if module is not None and taken.alone else {}
        if full not in kept:

            def plain(held: Any, arguments: Any) -> Any:
                with called_by(None):
                    return function(taken.again(held), *arguments, **dict(fixed))

            def whole(tensors: Any, held: Any, arguments: Any) -> Any:
                if module is None:
                    return plain(held, arguments)
                return with_tensors(module, tensors, lambda: plain(held, arguments))

            own = pytree.tree_map(copied, given)
            run = compiled(made_graph(whole, *own, captures=module is None))
            with quietly():
                found = run(*own)  # compiling happens in the first call
            agreeing(found, plain(held, arguments))
            keep(kept, full, run)
        return kept[full]  # type: ignore[no-any-return]


def arguments_device(arguments: tuple[Any, ...]) -> str:
    """The kind of device that a part's tensors are on."""
    tensors = tensors_in(arguments)
    return tensors[0].device.type if tensors else "cpu"
