"""Loops: eagerly Python's own, in a graph the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebmkit.graphs import Work, tensors_of
from ebmkit.holding import with_tensors
from ebmkit.loops import again, loops_in, scanned, while_loop
from ebmkit.lowering import compiled, made_graph, quietly


class Carried(NamedTuple):
    count: Tensor
    x: Tensor
    name: str
    none: None


def points(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def same(found: Any, expected: Any, tolerance: float = 0.0) -> None:
    leaves, structure = pytree.tree_flatten(found)
    others, form = pytree.tree_flatten(expected)
    assert structure == form
    for one, two in zip(leaves, others, strict=True):
        if isinstance(two, Tensor):
            torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)
        else:
            assert one == two


def halved(x: Tensor) -> Tensor:
    return while_loop(lambda z: z.abs().max() > 0.1, lambda z: z * torch.as_tensor(0.3), x)


def nested(x: Tensor) -> Carried:
    """Each turn of the outer loop is one of an inner loop of as many turns as it has had."""

    def body(c: Carried) -> Carried:
        count, x = while_loop(
            lambda inner: inner[0] < c.count,
            lambda inner: (inner[0] + 1, inner[1] * 1.5 + c.x.mean()),
            (torch.zeros((), dtype=torch.long), c.x),
        )
        return c._replace(count=count + 1, x=x.tanh())

    start = Carried(torch.zeros((), dtype=torch.long), x, "kept", None)
    return while_loop(lambda c: c.count < 4, body, start)


def by_hand(x: Tensor) -> Carried:
    for turns in range(4):
        y = x
        for _ in range(turns):
            y = y * 1.5 + x.mean()
        x = y.tanh()
    return Carried(torch.tensor(4), x, "kept", None)


def shared(x: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
    """One tensor in condition and body, and views of one storage, also among what is carried."""
    row, column = limits[0], limits[:, 0]

    def goes_on(z: tuple[Tensor, Tensor]) -> Tensor:
        return (z[0].sum() < limits.sum()) & (z[1][0] < column.sum())

    def body(z: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return z[0] + row.sum() * 0.1 + column[0], z[1] + limits.flatten()[: len(z[1])] * 0.1

    return while_loop(goes_on, body, (x[0], x[0]))


def never(x: Tensor) -> Tensor:
    return while_loop(lambda z: z.sum() > 1e9, lambda z: z + 1, x)


def all_of_them(x: Tensor, limits: Tensor) -> Any:
    c = nested(x)
    return halved(x), (c.count, c.x), shared(x, limits), never(x)


class Slope(nn.Module):
    """A module with a constant in it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = x - torch.as_tensor(0.3) * torch.tanh(self.layer(x))
        return moved


def descended(slope: Slope, x: Tensor) -> tuple[Tensor, Tensor]:
    """Six turns at most."""
    return while_loop(
        lambda z: (z[0] < 6) & (slope(z[1]).abs().max() > 0.5),
        lambda z: (z[0] + 1, 0.8 * slope(z[1])),
        (torch.zeros((), dtype=torch.long), x),
    )


def limits() -> Tensor:
    return points(3, 2).abs() + 1


def test_eagerly_it_is_a_loop_of_python_s() -> None:
    x = points(5, 2)
    same(nested(x), by_hand(x))
    y = x
    while y.abs().max() > 0.1:
        y = y * 0.3
    same(halved(x), y)
    assert never(x) is x
    z = while_loop(lambda z: z < 5, lambda z: z + 2, torch.tensor(0))
    assert int(z) == 6


def test_in_a_graph_it_is_the_same_loop() -> None:
    x = points(5, 2)
    graph = made_graph(all_of_them, x, limits())
    assert len(loops_in(graph)) >= 10
    for factor in (1.0, 3.0):  # other values make other numbers of turns
        same(graph(factor * x, limits()), all_of_them(factor * x, limits()))
    shifted = limits() + 2
    same(graph(x, shifted), all_of_them(x, shifted))


def test_a_module_s_weights_are_inputs_of_the_graph() -> None:
    slope, x = Slope(), points(5, 2)

    def run(tensors: dict[str, Tensor], x: Tensor) -> Any:
        return with_tensors(slope, tensors, lambda: descended(slope, x))

    with torch.no_grad():
        graph = made_graph(run, tensors_of(slope), x)
        for factor in (1.0, 2.0):
            for p in slope.parameters():
                p.mul_(factor)
            same(graph(tensors_of(slope), x), descended(slope, x))


def test_compiled_it_is_the_same_loop() -> None:
    slope, x = Slope(), points(5, 2)

    def run(tensors: dict[str, Tensor], x: Tensor, limits: Tensor) -> Any:
        found = with_tensors(slope, tensors, lambda: descended(slope, x))
        return found, *all_of_them(x, limits)

    with torch.no_grad(), quietly():
        code = compiled(made_graph(run, tensors_of(slope), x, limits()))
        for factor in (1.0, 3.0):
            found = code(tensors_of(slope), factor * x, limits())
            same(found, run(tensors_of(slope), factor * x, limits()), 1e-5)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda z: z[:1], r"a tensor \(5, 2\) of torch.float32 and returned one \(1, 2\)"),
        (lambda z: z.double(), "of torch.float32 and returned one .* of torch.float64"),
        (lambda z: (z, z), r"was given \*? and returned .*tuple"),
        (lambda z: None, "and returned"),
    ],
)
@pytest.mark.parametrize("traces", [False, True])
def test_a_body_that_changes_what_is_carried_is_refused(
    body: Callable[[Any], Any], said: str, traces: bool
) -> None:
    def run(x: Tensor) -> Any:
        return while_loop(lambda z: z.sum() < 1e9, body, x)

    with pytest.raises(TypeError, match="while_loop: body was given") as raised:
        made_graph(run, points(5, 2)) if traces else run(points(5, 2))
    raised.match(said)


def test_a_loop_over_parts_stacks_its_results() -> None:
    def body(x: Carried, part: tuple[Tensor, Tensor]) -> tuple[Carried, dict[str, Tensor]]:
        after = x._replace(count=x.count + 1, x=x.x * 0.5 + part[0])
        return after, {"x": after.x, "sum": after.x.sum() * part[1]}

    def run(x: Tensor, noise: Tensor, scales: Tensor) -> Any:
        start = Carried(torch.zeros((), dtype=torch.long), x, "kept", None)
        after, results = scanned(body, start, (noise, scales))
        assert (after.name, after.none) == ("kept", None)
        return (after.count, after.x), results

    x, noise, scales = points(5, 2), points(4, 5, 2), points(4)
    graph = made_graph(run, x, noise, scales)
    state, rows = Carried(torch.tensor(0), x, "kept", None), []
    for part in zip(noise, scales, strict=True):
        state, row = body(state, part)
        rows.append(row)
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    same(graph(x, noise, scales), ((state.count, state.x), stacked))


def test_a_loop_over_parts_is_given_them_without_gaps_in_memory() -> None:
    def run(x: Tensor, parts: Tensor) -> Any:
        return scanned(lambda x, part: (x + part, {}), x, parts)[0]

    x, rows = points(3), points(4, 5)
    for parts in (rows[:, :3], rows[:, ::2], rows[:3, :3].mT):
        graph = made_graph(run, x, parts)
        same(graph(x, parts), x + parts[0] + sum(parts[1:]), 1e-6)
        (loop,) = (n for n in graph.graph.nodes if getattr(n.target, "_name", "") == "scan")
        given: Any = loop.args[2]
        assert all(part.meta["val"].is_contiguous() for part in given)


def test_what_a_turn_repeats_is_told() -> None:
    told: list[bool] = []

    def body(z: Tensor) -> Tensor:
        told.append(again())
        return z + 1

    while_loop(lambda z: z < 3, body, torch.tensor(0))
    assert told == [False, True, True] and not again()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        while_loop(lambda z: 1 // (2 - z) < 9, body, torch.tensor(0))
    assert len(told) == 5 and not again()


def test_operations_of_a_loop_count_once_and_its_traffic_every_time() -> None:
    def work(turns: int) -> Work:
        with Work() as work:
            x, one, end = torch.zeros(8), torch.tensor(1), torch.tensor(turns)
            while_loop(lambda z: z[1] < end, lambda z: (z[0] + 1, z[1] + one), (x, x.sum().long()))
        return work

    once, often = work(1), work(5)
    assert once.calls == often.calls
    assert (work(0).loops, once.loops, often.loops) == (False, True, True)
    # Each further turn writes eight floats, a counter and a condition.
    assert often.traffic - once.traffic == 4 * (8 * 4 + 8 + 1)
