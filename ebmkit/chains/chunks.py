"""Steps of a chain as one graph: traced, compiled, and found again by what it is good for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebmkit.chains.capture import Captured, CudaGraph
from ebmkit.chains.guard import Held
from ebmkit.chains.steps import Stretch, step_by_step
from ebmkit.holding import with_tensors
from ebmkit.layers import unbound
from ebmkit.lowering import Unsuitable, compiled, facts, layout, made_graph, quietly, surroundings
from ebmkit.protocols import Energy, Sampler, State

MOST_GRAPHS = 8
"""Graphs kept for a model."""


class Graph(NamedTuple):
    """Steps as one graph."""

    run: Callable[..., Any]
    """(model's tensors, bound keywords, state, held, noises, moving values) -> a Stretch's fields"""
    length: int
    """Steps that it takes."""


class Case(NamedTuple):
    """What steps are to be taken, and how."""

    sampler: Sampler
    energy: Energy
    module: nn.Module | None
    moving: tuple[str, ...]
    """Scheduled parameters that are inputs of the graph; the others are part of it."""
    watch: tuple[str, ...]
    length: int
    lower: bool
    """Whether the graph is compiled, and not only recorded."""

    @property
    def holds_alone(self) -> bool:
        """Whether the energy is its module, or a method of it: what else it holds may have changed by
        the next time."""
        inner = unbound(self.energy)[0]
        return inner is self.module or getattr(inner, "__self__", None) is self.module

    def key(self, state: State, held: Held | None, noise: Any, values: Mapping[str, Any]) -> Any:
        """What a graph is good for; anything else needs another."""
        inner, bound = unbound(self.energy)
        # A bound method would keep the module alive that the graph is kept for.
        called = None if inner is self.module else getattr(inner, "__func__", inner)
        return (
            _identity(self.sampler),
            called,
            layout((bound, state, held, noise)),
            tuple((n, v) for n, v in values.items() if n not in self.moving),
            self[3:],
            () if self.module is None else facts(self.module),
            surroundings(state.x.device.type),
        )


_graphs: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()


def graphs_kept_with(module: nn.Module) -> dict[Any, Any]:
    """The graphs of a model, by what they are good for; to be added to by ``keep``."""
    return _graphs.setdefault(module, {})


def keep(kept: dict[Any, Any], key: Any, graph: Any) -> None:
    """Add a graph, in the place of the oldest where there are many."""
    while len(kept) >= MOST_GRAPHS:
        del kept[next(iter(kept))]
    kept[key] = graph


def graph_of(
    case: Case,
    state: State,
    held: Held | None,
    noise: Any,
    values: Mapping[str, Any],
    call: Callable[..., Any],
    before: Callable[[], None],
) -> Graph:
    """The graph of a case, made where there is none yet; ``call(run, state, held, noises, values)``
    calls a graph's ``run``, and ``before()`` is called where one has to be made. Graphs are kept as
    long as their model; an energy that is no module may have changed by the next time."""
    module = case.module
    kept = graphs_kept_with(module) if module is not None and case.holds_alone else {}
    key = case.key(state, held, noise, values)
    if key not in kept:
        before()
        noises = [noise] * case.length
        all_values = [values] * case.length
        made: list[Callable[..., Any]] = []

        def first(*arguments: Any) -> Any:
            # On tensors of their own: one that is given twice would become one input for both.
            tensors, *others = arguments
            own = (tensors, *pytree.tree_map(copied, others))
            made.append(_traced(case, all_values, own, state.x.device.type))
            return made[0](*own)  # compiling happens in the first call

        with quietly():
            compiled_steps = call(first, state, held, noises, all_values)
        eager = step_by_step(case.sampler, case.energy, state, held, noises, all_values, case.watch)
        agreeing(compiled_steps.state.x, eager.state.x)
        keep(kept, key, Graph(made[0], case.length))
    return kept[key]  # type: ignore[no-any-return]


def agreeing(found: Any, expected: Any) -> None:
    """Raises Unsuitable where two ways of computing the same lead chains to different numbers; a few
    may be apart, by acceptances that hang on rounding."""
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True)
    for x, y in pairs:
        if not isinstance(x, Tensor) or not x.ndim or not len(x):
            continue
        away = ~torch.isclose(x, y, rtol=1e-2, atol=1e-3, equal_nan=True)
        apart = int(away.reshape(len(x), -1).any(1).sum())
        if apart > 1 + len(x) // 20:
            raise Unsuitable(
                f"compiled and eager steps lead {apart} of {len(x)} chains to different numbers, which "
                "is a fault of the compiler"
            )


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _traced(
    case: Case, values: Sequence[Mapping[str, Any]], arguments: tuple[Any, ...], device: str
) -> Callable[..., Any]:
    inner, module = unbound(case.energy)[0], case.module
    fixed = [{n: v for n, v in step.items() if n not in case.moving} for step in values]

    def whole(
        tensors: Any, bound: Any, state: State, held: Any, noises: Any, moving: Any
    ) -> tuple[Any, ...]:
        energy: Energy = partial(inner, **bound) if bound else inner
        given = [
            f | dict(zip(case.moving, m, strict=True)) for f, m in zip(fixed, moving, strict=True)
        ]

        def work() -> Stretch:
            return step_by_step(case.sampler, energy, state, held, noises, given, case.watch)

        return tuple(work() if module is None else with_tensors(module, tensors, work))

    # What a plain function has captured becomes part of its graph.
    graph = made_graph(whole, *arguments, captures=module is None)
    run: Callable[..., Any] = compiled(graph) if case.lower else graph.forward
    return Captured(run, CudaGraph) if device == "cuda" else run


def _identity(sampler: Sampler) -> Any:
    """What tells a sampler from others: its configuration where that can be compared."""
    plain = getattr(sampler, "__dict__", {}).items()
    changing = tuple((n, v) for n, v in plain if isinstance(v, bool | int | float | str))
    try:
        hash(sampler)
    except TypeError:
        return _Same(sampler), changing
    return sampler, changing


@attrs.frozen(eq=False)
class _Same:
    """Holds an object by its identity, and so keeps another from taking its place in memory."""

    it: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.it is self.it

    def __hash__(self) -> int:
        return id(self.it)
