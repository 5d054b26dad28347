"""The second route to every number: torch.func.hessian, one row at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

import ebmkit
from ebmkit.calculus import taylor

Agree = Callable[..., None]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class PlainLayerNorm(TorchFunctionMode):
    """Layer normalisation in plain operations: torch's own, differentiated twice in x and once in
    weights before it, gives parameter gradients that finite differences contradict (torch 2.13)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.layer_norm:
            return func(*args, **kwargs)
        return self.normalised(*args, **kwargs)

    def normalised(
        self, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Tensor:
        axes = tuple(range(-len(shape), 0))
        away = x - x.mean(axes, keepdim=True)
        y = away / (away.square().mean(axes, keepdim=True) + eps).sqrt()
        y = y if weight is None else y * weight
        return y if bias is None else y + bias


def second_route(model: nn.Module, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Energies, ∇E · v_i and Σ_i v_iᵀ ∇²E v_i of each row by itself."""

    def energy(row: Tensor) -> Tensor:
        # Only the plain formula of attention can be differentiated forward over reverse.
        with sdpa_kernel(SDPBackend.MATH), PlainLayerNorm():
            energies: Tensor = model(row[None])
        return energies[0]

    energies, firsts, seconds = [], [], []
    for i, row in enumerate(x):
        v = directions[:, i] if directions.ndim > x.ndim else directions
        v = v.reshape(len(v), -1)
        gradient = torch.func.grad(energy)(row).reshape(-1)
        with warnings.catch_warnings():
            # torch's forward mode uses what torch has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            hessian = torch.func.hessian(energy)(row).reshape(row.numel(), row.numel())
        energies.append(energy(row))
        firsts.append(v @ gradient)
        seconds.append(torch.einsum("ni,ij,nj->", v, hessian, v))
    return torch.stack(energies), torch.stack(firsts, 1), torch.stack(seconds)


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@pytest.fixture(autouse=True)
def _say_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taylor, "_said", set())


@pytest.fixture
def agree() -> Agree:
    """Both routes agree in values and in the parameters' gradients, to 1e-9 in float64. Where torch
    cannot differentiate a function often enough, ``reference`` is the same in other words."""

    def check(
        model: nn.Module,
        x: Tensor,
        directions: Tensor | None = None,
        *,
        quiet: bool = True,
        reference: nn.Module | None = None,
        **options: int,
    ) -> None:
        with warnings.catch_warnings():
            if not quiet:
                warnings.simplefilter("ignore", ebmkit.CalculusWarning)
            ours = ebmkit.directional_derivatives(model, x, directions, **options)
        eye = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
        theirs = second_route(reference or model, x, eye if directions is None else directions)
        for mine, other in zip(ours[:3], theirs, strict=True):
            assert isinstance(mine, Tensor)
            close(mine.detach(), other.detach())
        if not any(p.requires_grad for p in model.parameters()):
            return
        # Score matching's loss, and a combination that sees every entry of all three.
        for weigh in (score_matching, anything):
            for mine, other in zip(
                gradients(weigh(*ours[:3]), model),
                gradients(weigh(*theirs), reference or model),
                strict=True,
            ):
                close(mine, other)

    return check


def close(mine: Tensor, other: Tensor) -> None:
    scale = max(1.0, other.abs().max().item() if other.numel() else 1.0)
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9 * scale)


def score_matching(energies: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return (0.5 * first.square().sum(0) - second).mean()


def anything(energies: Tensor, first: Tensor, second: Tensor) -> Tensor:
    generator = seeded(7)
    return sum(
        (
            (t.sin() * torch.randn(t.shape, generator=generator, dtype=t.dtype)).sum()
            for t in (energies, first, second)
        ),
        torch.zeros(()),
    )


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Normal numbers in float64, the same in each test."""
    generator = seeded(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return normal
