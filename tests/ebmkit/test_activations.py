"""Activations and their derivatives are computed at once, and stay the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ebmkit.activations import with_derivatives
from ebmkit.loops import while_loop
from ebmkit.lowering import compiled, made_graph, quietly

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "softplus": functional.softplus,
    "softplus of another slope": lambda x: functional.softplus(x, beta=3.0, threshold=2.0),
    "mish": functional.mish,
}


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def force(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The gradient in x of Σ a(a(x W) V)."""

    def of(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        energy = activation(activation(x @ w) @ v).sum()
        (gradient,) = torch.autograd.grad(energy, x)
        return gradient.detach()

    return of


def kept(graph: torch.fx.GraphModule) -> int:
    parts = [m for m in graph.modules() if isinstance(m, torch.fx.GraphModule)]
    return sum("kept" in str(n.target) for part in parts for n in part.graph.nodes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives_come_with_activations(name: str, dtype: torch.dtype) -> None:
    function = force(ACTIVATIONS[name])
    x = torch.cat([numbers(30, 6, dtype=dtype), 40 * numbers(10, 6, seed=3, dtype=dtype)])
    given = x, numbers(6, 8, seed=1, dtype=dtype), numbers(8, 8, seed=2, dtype=dtype)
    expected = function(*given)
    graph = with_derivatives(made_graph(function, *given))
    graph.graph.lint()
    # The last activation itself is not needed, so that only the first has a derivative beside it.
    assert kept(graph) == 1
    torch.testing.assert_close(graph(*given), expected)
    with quietly():
        torch.testing.assert_close(compiled(made_graph(function, *given))(*given), expected)


def test_an_activation_that_no_product_reads_stays_as_it_is() -> None:
    # Forward and backward are one loop over the numbers, which needs nothing from memory.
    def function(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.silu(functional.silu(x) ** 2).sum(), x)
        return gradient.detach()

    graph = with_derivatives(made_graph(function, numbers(40, 3)))
    assert kept(graph) == 0


def test_activations_of_convolutions_and_behind_views() -> None:
    network = nn.Sequential(
        *(
            nn.Conv2d(1, 4, 3),
            nn.SiLU(),
            nn.Conv2d(4, 4, 3),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64, 1),
        )
    ).requires_grad_(False)

    def function(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(network(x).sum(), x)
        return gradient.detach()

    x = numbers(5, 1, 8, 8)
    graph = with_derivatives(made_graph(function, x, captures=True))
    assert kept(graph) == 2
    torch.testing.assert_close(graph(x), function(x))


def test_within_loops() -> None:
    function = force(functional.silu)
    w, v = numbers(6, 8, seed=1), numbers(8, 8, seed=2)

    def descent(x: Tensor, w: Tensor, v: Tensor) -> Any:
        turns = torch.zeros((), dtype=torch.int64)
        return while_loop(
            lambda c: c[1] < 5, lambda c: (c[0] - 0.1 * function(c[0], w, v), c[1] + 1), (x, turns)
        )[0]

    x = numbers(40, 6)
    graph = with_derivatives(made_graph(descent, x, w, v))
    assert kept(graph) == 1
    with quietly():
        found = compiled(made_graph(descent, x, w, v))(x, w, v)
    torch.testing.assert_close(found, descent(x, w, v), rtol=1e-5, atol=1e-5)


def test_other_settings_are_another_activation() -> None:
    def function(g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        aten = torch.ops.aten
        return functional.softplus(x, beta=2.0) @ w + aten.softplus_backward(g, x, 1.0, 20.0) @ w

    given = numbers(9, 4), numbers(9, 4, seed=1), numbers(4, 4, seed=2)
    graph = with_derivatives(made_graph(function, *given))
    assert kept(graph) == 0
    torch.testing.assert_close(graph(*given), function(*given))


def test_the_derivative_of_what_is_not_finite() -> None:
    function = force(functional.silu)
    x = torch.tensor([[torch.inf], [-torch.inf], [torch.nan], [1.0]])
    given = x, torch.ones(1, 1), torch.ones(1, 1)
    graph = with_derivatives(made_graph(function, *given))
    assert torch.equal(graph(*given).isfinite(), function(*given).isfinite())
