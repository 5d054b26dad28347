"""Narrow tensors as columns: any program of operations gives what it gives on whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

import ebmkit
from ebmkit.columns import with_columns
from ebmkit.loops import loops_in, scanned, while_loop
from ebmkit.lowering import made_graph, tensors_in

Step = Callable[[list[Tensor]], Tensor]
"""A tensor from those that a program has made so far."""

UNARY: list[Callable[[Tensor], Tensor]] = [
    torch.neg,
    torch.tanh,
    torch.abs,
    torch.clone,
    torch.detach,
    torch.zeros_like,
    lambda x: torch.full_like(x, 2.5, dtype=torch.float64),
    lambda x: x * 2,
    lambda x: 1.5 - x,
    lambda x: x.clamp(min=-1, max=2),
    lambda x: torch.add(x, 1, alpha=2),
    lambda x: torch.clamp(x, max=torch.tensor(0.5)),
    lambda x: x.masked_fill(x > 0.0123, -1.0),
    lambda x: torch.frexp(x)[0],
    lambda x: x.float(),
    lambda x: x.double(),
    # Away from where rounding would decide.
    lambda x: (x + 0.0123).long(),
    lambda x: (x + 0.0123).to(torch.uint8),
    lambda x: x > 0.0123,
    lambda x: x.view(torch.int32),
    lambda x: x.squeeze(),
    lambda x: x.flatten(),
    lambda x: x.flatten(0, -2),
    lambda x: x.t(),
    lambda x: x.transpose(-1, -2),
    lambda x: x.cumsum(-1),
    lambda x: x[0],
    lambda x: x[..., 0],
    lambda x: x[:, :1],
    lambda x: x[:, None],
    lambda x: x[:1, :1],
    lambda x: x.flip(-1),
    lambda x: x.expand(3, *x.shape),
    lambda x: x.expand(3, -1, -1),
    lambda x: x.expand(-1, 3),
    lambda x: x.expand(-1, 7),
    lambda x: x.expand(len(x), 0),
    lambda x: x.reshape(-1, x.shape[-1]),
    lambda x: x.view(2, -1, x.shape[-1]),
    lambda x: x.view(-1, 2),
    lambda x: x.view(-1, 4),
    lambda x: x.view(-1),
    lambda x: x.view(-1, 1),
    lambda x: x.squeeze((0, 1)),
    lambda x: torch.ops.aten.index(x, [torch.zeros((), dtype=torch.long)]),
    lambda x: x.softmax(-1),
    lambda x: x.norm(dim=-1),
    lambda x: x.float().var(-1, correction=0),
    lambda x: x.max(-1).values,
    lambda x: x.sum([]),
    lambda x: x.sum(),
    lambda x: x.sum(-1, dtype=torch.float64),
    lambda x: x.mean(),
    lambda x: x.any(),
]
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    torch.logical_or,
    lambda x, y: x / (y.abs() + 1),
    lambda x, y: torch.where(x > y + 0.0123, x, y),
    lambda x, y: torch.where(x > 0.0123, y, 0.5),
    lambda x, y: x * y.long(),
    lambda x, y: torch.lerp(x, y.to(x.dtype), 0.25),
    lambda x, y: torch.atan2(x, y.abs() + 1),
    lambda x, y: x @ y,
    lambda x, y: torch.mm(x, y),
    lambda x, y: torch.mm(x, y[:, :0]),
    lambda x, y: torch.nn.functional.linear(x, y),
    lambda x, y: torch.ops.aten.index(x, [y.long().remainder(len(x))]),
    lambda x, y: torch.ops.aten.index(x, [None, y.long().remainder(x.shape[1])]),
    lambda x, y: x.gather(0, y.long().remainder(len(x))),
    lambda x, y: x.gather(-1, y.long().remainder(x.shape[-1])),
    lambda x, y: torch.take_along_dim(x, y.long().remainder(x.shape[1]), 1),
    lambda x, y: torch.cat([torch.zeros(0), x, y]),
]
TERNARY: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [
    lambda x, y, z: torch.where(x > 0.0123, y, z),
    lambda x, y, z: torch.addcmul(x, y, z, value=0.5),
    torch.addmm,
    lambda x, y, z: torch.addmm(x, y, z, beta=2, alpha=0.5),
    lambda x, y, z: torch.nn.functional.linear(x, y, z),
]
REDUCTIONS = ["sum", "mean", "amax", "amin", "any", "all"]


def tensors(d: int, rows: int) -> list[Tensor]:
    """Of few digits, so that most sums and products are exact."""
    generator = torch.Generator().manual_seed(d + rows)

    def some(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randint(-8, 9, shape, generator=generator).div(4).to(dtype)

    return [
        some(rows, d),
        some(rows, d, dtype=torch.float64),
        some(d, rows).t(),
        some(rows, 2 * d)[:, ::2],
        some(rows, d, dtype=torch.int64),
        some(rows, d) > 0,
        some(2, rows // 2, d),
        some(rows, 1),
        some(rows),
        some(rows, 5),
        some(1, d),
        some(d),
        some(d, dtype=torch.float64),
        some(d, dtype=torch.int64),
        some(d, d),
        some(d, 1),
        some(d, 6),
        some(4),
        some(),
        some(dtype=torch.float64),
    ]


def pick(draw: Any, of: Sequence[Any]) -> Any:
    return of[draw(st.integers(0, len(of) - 1))]


def a_step(draw: Any, n: int) -> Step:
    i, j, k = (
        draw(st.one_of(st.integers(0, n - 1), st.integers(max(n - 3, 0), n - 1))) for _ in range(3)
    )
    dim = draw(st.integers(-3, 2))
    kind = draw(st.integers(0, 9))
    if kind < 2:
        unary = pick(draw, UNARY)
        return lambda pool: unary(pool[i])
    if kind < 4:
        binary = pick(draw, BINARY)
        return lambda pool: binary(pool[i], pool[j])
    if kind == 4:
        ternary = pick(draw, TERNARY)
        return lambda pool: ternary(pool[i], pool[j], pool[k])
    if kind == 5:
        name, keep = pick(draw, REDUCTIONS), draw(st.booleans())
        dims = pick(draw, [dim, dim, [dim], [-1, 0], [0, 1]])
        return lambda pool: getattr(torch, name)(pool[i], dims, keepdim=keep)
    if kind == 6:
        start, length = draw(st.integers(-4, 3)), draw(st.integers(0, 40))
        step = draw(st.integers(1, 2))
        at = dim % 2
        return lambda pool: torch.ops.aten.slice(pool[i], at, start, start + length, step)
    if kind == 7:
        change = pick(draw, [torch.unsqueeze, torch.squeeze, lambda x, m: x.select(m, -1)])
        return lambda pool: change(pool[i], dim)
    if kind == 8:
        join, many = pick(draw, [torch.cat, torch.stack]), pick(draw, [[i, j], [i, j, k], [i, i]])
        return lambda pool: join([pool[m] for m in many], dim)
    which = draw(st.integers(-1, 1))
    return lambda pool: pool[i].unbind(dim)[which]


@st.composite
def programs(draw: Any) -> tuple[list[Tensor], list[Step]]:
    """Tensors, and steps that work on them; what is no operation on such tensors is left out."""
    given = tensors(draw(st.integers(2, 4)), draw(st.sampled_from([32, 36])))
    pool, steps = list(given), []
    for _ in range(draw(st.integers(1, 12))):
        step = a_step(draw, len(pool))
        try:
            found = step(pool)
        except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError):
            continue
        if found.numel() < 2000 and bool((found.double().abs() < 1e4).all()):
            pool.append(found)
            steps.append(step)
    return given, steps


def run(given: Sequence[Tensor], steps: Sequence[Step]) -> tuple[Tensor, ...]:
    pool = list(given)
    for step in steps:
        pool.append(step(pool))
    return tuple(pool)


def flat(function: Callable[..., tuple[Tensor, ...]], *given: Any) -> GraphModule:
    graph = made_graph(function, *given, captures=True)
    for node in graph.graph.find_nodes(op="placeholder"):
        if "val" not in node.meta:
            graph.graph.erase_node(node)
    graph.graph.set_codegen(CodeGen())
    graph.recompile()
    return graph


def same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for one, two in zip(found, expected, strict=True):
        assert one.shape == two.shape and one.dtype == two.dtype
        torch.testing.assert_close(one, two, equal_nan=True)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(programs())
def test_any_program_gives_what_it_gives_on_whole_tensors(
    program: tuple[list[Tensor], list[Step]],
) -> None:
    given, steps = program
    graph = flat(lambda *x: run(x, steps), *given)
    same(with_columns(graph)(*given), graph(*given))


def by_columns(function: Callable[..., tuple[Tensor, ...]], *given: Tensor) -> GraphModule:
    """The graph by columns, which must give what the function gives."""
    graph = with_columns(flat(function, *given))
    same(graph(*given), function(*given))
    return graph


def wide_operations(graph: GraphModule) -> list[str]:
    """Those that go through a narrow tensor number by number."""
    nodes = [n for part in (graph, *loops_in(graph)) for n in part.graph.nodes]
    pointwise = [n for n in nodes if torch.Tag.pointwise in getattr(n.target, "tags", ())]
    copies = torch.ops.aten.clone.default
    return [
        n.name
        for n in pointwise
        if n.target is not copies and n.meta["val"].ndim > 1 and n.meta["val"].shape[-1] <= 4
    ]


X, Y = tensors(2, 32)[:2]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: (torch.stack([x[:, 0], y[:, 0]], -1)[:, 0],),
        lambda x, y: (torch.cat([x + 1, y + 1], -1)[:, 1],),
        lambda x, y: ((x + 1).to(torch.uint8)[:, :1].any(-1),),
        lambda x, y: ((x + 1)[:, :1].any(-1), (x + 1)[:, :1].all(-1, keepdim=True)),
        lambda x, y: (torch.sum(x + 1, []),),
        lambda x, y: ((x + 1)[:1, None][:, :1].squeeze((0, 1)) * y,),
        lambda x, y: (torch.ops.aten.index(y + 1, [torch.zeros((), dtype=torch.long)]) * x,),
        lambda x, y: (torch.cat([torch.zeros(0), x + 1, x + 2]),),
        lambda x, y: ((x + 1).view(torch.int32),),
        lambda x, y: ((x + 1).sum(-1, keepdim=True).expand(32, 0),),
        lambda x, y: ((x + 1) @ x[:2, :0],),
        lambda x, y: ((x + 1).sum(-1, keepdim=True) * x[:, :0],),
        lambda x, y: ((x.t().contiguous().t() + 1).t().view(64),),
        lambda x, y: (torch.as_strided(x + 1, (31, 2), (2, 1), 1),),
        lambda x, y: torch.frexp(x + 1),
        lambda x, y: (x, x + 1, x, y),
    ],
)
def test_operations_that_are_easily_mistaken(function: Any) -> None:
    by_columns(function, X, Y)


def test_one_column_does_not_take_apart_what_is_wide() -> None:
    wide = torch.ones(32, 50)
    graph = by_columns(lambda x, w: (x.square().sum(1, keepdim=True) * w,), X, wide)
    assert len(graph.graph.nodes) < 15


def test_what_is_written_into_or_goes_on_by_a_condition_stays_as_it_is() -> None:
    def written(x: Tensor) -> tuple[Tensor, ...]:
        return (x.clone().add_(1) * 2,)

    def looped(x: Tensor) -> tuple[Tensor, ...]:
        return (while_loop(lambda z: z.sum() < 100, lambda z: z + 1, x),)

    for function in (written, looped):
        graph = flat(function, X)
        assert with_columns(graph) is graph
    few = flat(lambda x: (x + 1,), X[:31])
    assert with_columns(few) is few


def test_the_body_of_a_loop_of_known_length_is_by_columns_too() -> None:
    def loop(x: Tensor, parts: Tensor) -> tuple[Tensor, ...]:
        def body(x: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
            x = x * 0.5 + torch.sin(part)
            return x, x.square().sum(1)

        return scanned(body, x, parts)

    parts = torch.randn(3, 32, 2, generator=torch.Generator().manual_seed(0))
    plain = flat(loop, X, parts)
    graph = with_columns(plain)
    same(graph(X, parts), plain(X, parts))
    assert wide_operations(plain) and loops_in(graph) and not wide_operations(graph)


def test_nothing_narrow_is_left_within_hamiltonian_steps_in_the_plane() -> None:
    energy = ebmkit.create("model", "banana")
    sampler = ebmkit.create("sampler", "hmc", step_size=0.1, n_leapfrog=3)
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    state = sampler.init(energy, x)
    noise = sampler.draw(state, generator=torch.Generator().manual_seed(1))

    def step(*tensors: Any) -> tuple[Tensor, ...]:
        given = type(state)(*tensors[: len(state)])
        there = type(noise)(*tensors[len(state) :])
        after, metrics = sampler.step(energy, given, there, step_size=0.1)
        return (*after, *metrics.values())

    with torch.no_grad():
        plain = flat(step, *state, *noise)
        graph = with_columns(plain)
        same(graph(*tensors_in((state, noise))), step(*state, *noise))
    assert wide_operations(plain) and not wide_operations(graph)
