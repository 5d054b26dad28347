"""Large products of a graph go elsewhere and stay the same products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ebmkit import products
from ebmkit.lowering import compiled, made_graph, quietly
from ebmkit.products import with_fast_products

N = 128
"""N³ is just the work of a large product."""
THERE = products.onednn_usable()


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rewritten(function: Callable[..., Any], *arguments: Tensor) -> int:
    """How many products went elsewhere; what the graph computes must be the same."""
    graph = with_fast_products(made_graph(function, *arguments))
    graph.graph.lint()
    torch.testing.assert_close(graph(*arguments), function(*arguments), rtol=1e-5, atol=1e-4)
    return sum("ebmkit" in str(node.target) for node in graph.graph.nodes)


@pytest.mark.parametrize("rows", [N, 3 * N])
def test_layers_and_their_gradients_by_oneDNN(rows: int) -> None:  # noqa: N802
    x, w, b = numbers(rows, N), numbers(N, N, seed=1), numbers(N, seed=2)
    assert rewritten(torch.nn.functional.linear, x, w, b) == THERE
    assert rewritten(torch.nn.functional.linear, x, w) == THERE
    # A gradient is a product with the weight itself; steps after one another share its transpose.
    assert rewritten(lambda x, w: (x @ w) @ w, x, w) == 2 * THERE
    assert rewritten(lambda x, w: x @ w.t() @ w, x, w) == 2 * THERE


def test_a_factor_that_is_no_transpose_in_rows() -> None:
    x, w = numbers(N, N), numbers(N, 2 * N, seed=1)[:, ::2]
    assert not w.is_contiguous()
    assert rewritten(lambda x, w: x @ w, x, w) == THERE
    assert rewritten(lambda x, w: x @ w.t(), x, w) == THERE
    assert rewritten(lambda x, w: x @ w.exp(), x, w) == THERE


@pytest.mark.parametrize("columns", [1, 2, 8, 9])
def test_narrow_factors_are_turned_round(columns: int) -> None:
    x, w, b = numbers(64, 16), numbers(16, columns, seed=1), numbers(columns, seed=2)
    for function, given in (
        (lambda x, w: x @ w, (x, w)),
        (lambda x, w, b: torch.addmm(b, x, w), (x, w, b)),
    ):
        assert rewritten(function, *given) == 0
        graph = with_fast_products(made_graph(function, *given))
        (node,) = (n for n in graph.graph.nodes if "mm" in str(n.target))
        turned = "aten.t" in str(node.args[-1].target)
        assert turned == (THERE and columns in (2, 8))


def test_what_would_not_gain_stays_as_it_is() -> None:
    x, w, b = numbers(N, N), numbers(N, N, seed=1), numbers(N, seed=2)
    double = numbers(N, N, dtype=torch.float64)
    assert rewritten(lambda x, w: x @ w, x[1:], w) == 0
    assert rewritten(lambda x, w: x @ w, double, double) == 0
    assert rewritten(lambda x, w: x.t() @ w, x, w) == 0
    assert rewritten(lambda x, w: x @ w, numbers(8, 4 * N), numbers(4 * N, 4 * N)) == 0
    assert rewritten(lambda x, w, c: torch.addmm(c, x, w), x, w, numbers(N, N, seed=3)) == 0
    assert rewritten(lambda x, w, b: torch.addmm(b, x, w), x, w, b[:1]) == 0


def test_without_oneDNN_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: N802
    x, w = numbers(N, N), numbers(N, N, seed=1)
    monkeypatch.setattr(products, "onednn_usable", lambda: False)
    assert rewritten(lambda x, w: x @ w, x, w) == 0


def test_compiled_products_agree_to_rounding() -> None:
    x, w, b = numbers(N, N), numbers(N, N, seed=1), numbers(N, seed=2)

    def steps(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        for _ in range(3):
            h = torch.nn.functional.linear(x, w, b).tanh()
            x = x - 0.1 * ((1 - h * h) @ w)
        return x

    with quietly():
        found = compiled(made_graph(steps, x, w, b))(x, w, b)
    torch.testing.assert_close(found, steps(x, w, b), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inner", [1, 3, 4, 5])
def test_products_that_sum_up_few_numbers_are_written_out(inner: int, dtype: torch.dtype) -> None:
    x, w, b = numbers(64, inner), numbers(16, inner, seed=1), numbers(16, seed=2)
    linear = torch.nn.functional.linear
    for function, given in (
        (linear, (x, w, b)),
        (linear, (x, w)),
        (lambda x, w: x @ w.t(), (x, w)),
    ):
        given = tuple(part.to(dtype) for part in given)
        assert rewritten(function, *given) == 0
        graph = with_fast_products(made_graph(function, *given))
        products_left = sum("mm" in str(node.target) for node in graph.graph.nodes)
        assert products_left == (not THERE or inner > 4 or dtype == torch.float64)
        with quietly():
            found = compiled(made_graph(function, *given))(*given)
        torch.testing.assert_close(found, function(*given), rtol=1e-5, atol=1e-5)
