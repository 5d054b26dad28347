"""Steps of a chain as one graph: traced, compiled, and found again by what it is good for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebmkit.chains.capture import Captured, CudaGraph
from ebmkit.chains.guard import Held
from ebmkit.chains.noise import Block
from ebmkit.chains.steps import Stretch, step_by_step
from ebmkit.holding import with_tensors
from ebmkit.layers import unbound
from ebmkit.loops import loops_in, scanned
from ebmkit.lowering import Unsuitable, compiled, facts, layout, made_graph, quietly, surroundings
from ebmkit.protocols import Energy, Sampler, State

MOST_GRAPHS = 8
"""Graphs kept for a model."""


Run = Callable[..., Any]
"""(model's tensors, bound keywords, state, held, a block's noise, moving values (steps, names) or None)
-> a Stretch's fields, and the points after the first ``length`` steps"""


class Case(NamedTuple):
    """What steps are to be taken, and how."""

    sampler: Sampler
    energy: Energy
    module: nn.Module | None
    moving: tuple[str, ...]
    """Scheduled parameters that are inputs of the graph; the others are part of it."""
    watch: tuple[str, ...]
    length: int
    """Steps that are written out one after another."""
    rounds: int
    """How often: beyond once as a loop within the graph."""
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


_kept: WeakKeyDictionary[nn.Module, dict[str, dict[Any, Any]]] = WeakKeyDictionary()


def kept_with(case: Case, kind: str) -> dict[Any, Any]:
    """What is kept of a kind as long as a case's model, by what it is good for; to be added to by
    ``keep``. Of an energy that is no module nothing is, for it may have changed by the next time."""
    if case.module is None or not case.holds_alone:
        return {}
    return _kept.setdefault(case.module, {}).setdefault(kind, {})


def keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Add to what is kept, in the place of the oldest where there is much."""
    while len(kept) >= MOST_GRAPHS:
        del kept[next(iter(kept))]
    kept[key] = value


def graph_of(
    case: Case,
    state: State,
    held: Held | None,
    block: Block,
    values: Mapping[str, Any],
    call: Callable[..., Any],
    before: Callable[[], None],
) -> Run:
    """The graph of a case, made where there is none yet; ``call(run, state, held, block, values)``
    calls a graph, and ``before()`` is called where one has to be made."""
    kept = kept_with(case, "graph")
    key = case.key(state, held, block.noise, values)
    if key not in kept:
        before()
        made: list[Run] = []

        def first(*arguments: Any) -> Any:
            # On tensors of their own: one that is given twice would become one input for both.
            tensors, *others = arguments
            own = (tensors, *pytree.tree_map(copied, others))
            made.append(_traced(case, values, own, state.x.device.type))
            return made[0](*own)  # compiling happens in the first call

        with quietly():
            *_, found = call(first, state, held, block, [values] * block.steps)
        # Of chaotic chains no more can be compared, for these part by rounding alone.
        noises, all_values = block.each()[: case.length], [values] * case.length
        eager = step_by_step(case.sampler, case.energy, state, held, noises, all_values, ())
        agreeing(found, eager.state.x)
        keep(kept, key, made[0])
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
    """A tensor of its own that lies in memory as the given one does."""
    if not isinstance(value, Tensor):
        return value
    if 0 in value.stride():
        return value.clone()
    return torch.empty_strided(
        value.shape, value.stride(), dtype=value.dtype, device=value.device
    ).copy_(value)


def _traced(case: Case, values: Mapping[str, Any], arguments: tuple[Any, ...], device: str) -> Run:
    inner, module = unbound(case.energy)[0], case.module
    fixed = {name: value for name, value in values.items() if name not in case.moving}

    def whole(
        tensors: Any, bound: Any, state: State, held: Any, noise: Any, moving: Any
    ) -> tuple[Any, ...]:
        energy: Energy = partial(inner, **bound) if bound else inner

        def some(state: State, held: Any, noise: Any, moving: Any) -> Stretch:
            given = [fixed] * case.length
            if moving is not None:
                rows = (row.unbind() for row in moving.unbind())
                given = [fixed | dict(zip(case.moving, row, strict=True)) for row in rows]
            noises = Block(noise, case.length).each()
            return step_by_step(case.sampler, energy, state, held, noises, given, case.watch)

        def work() -> tuple[Any, ...]:
            if case.rounds == 1:
                stretch = some(state, held, noise, moving)
                return *stretch, stretch.state.x
            return _in_rounds(some, case, state, held, (noise, moving))

        return tuple(work() if module is None else with_tensors(module, tensors, work))

    # What a plain function has captured becomes part of its graph.
    graph = made_graph(whole, *arguments, captures=module is None)
    run: Run = compiled(graph, columns=True) if case.lower else graph.forward
    # A loop waits at each turn, which no recording can.
    return Captured(run, CudaGraph) if device == "cuda" and not loops_in(graph) else run


def _in_rounds(
    some: Callable[..., Stretch], case: Case, state: State, held: Any, given: Any
) -> tuple[Any, ...]:
    """A stretch's fields, and the points after the first round."""

    def body(carried: Any, part: Any) -> Any:
        stretch = some(*carried, *part)
        return stretch[:2], (*stretch[2:], stretch.state.x)

    shape = (case.rounds, case.length)
    parts = pytree.tree_map_only(Tensor, lambda x: x.unflatten(0, shape), given)
    (state, held), (totals, counted, watched, x) = scanned(body, (state, held), parts)
    return (
        state,
        held,
        {name: total.sum(0) for name, total in totals.items()},
        {name: count.sum(0) for name, count in counted.items()},
        {name: rows.flatten(0, 1) for name, rows in watched.items()},
        x[0],
    )


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
