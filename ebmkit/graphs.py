"""A loss, its metrics and its gradient traced into one graph, and what compiling that would save."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ebmkit.protocols import Batch, Loss, Metrics

# What the estimate of `auto` is made of, as measured on two cores of a server; it need only be right
# within a factor of two, and never depends on the clock, so that a run repeated is the same run.
_SECONDS_A_CALL = 5e-6
_BYTES_A_SECOND = 2e10
_SECONDS_AROUND = 2.5e-4
"""What finding and calling a graph, and handing its gradients over, takes itself."""
_COMPILE_SECONDS = 20.0
_COMPILE_SECONDS_A_CALL = 0.05
_VIEWS = {
    *("alias", "as_strided", "detach", "expand", "permute", "select", "slice", "split", "squeeze"),
    *("t", "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "_reshape_alias"),
}
_PRODUCTS = {"addmm", "baddbmm", "bmm", "convolution", "convolution_backward", "mm"}

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)


class Unsuitable(Exception):  # noqa: N818
    """Why a loss is not compiled, where that is nobody's mistake."""


def tracing() -> bool:
    """Whether code is being traced into a graph, so that it must not branch on values of tensors."""
    return _tracing.get() or torch.compiler.is_compiling()


class _Whole(nn.Module):
    """Loss and model as one module, so that ``functional_call`` reaches the model inside."""

    def __init__(self, loss: Loss, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.compute = loss

    def forward(self, batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
        return self.compute(self.model, batch, draws)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {f"model.{n}": t for n, t in (*model.named_parameters(), *model.named_buffers())}


def trace(
    loss: Loss, model: nn.Module, batch: Batch, draws: Any
) -> tuple[torch.fx.GraphModule, tuple[str, ...]]:
    """The loss, its metrics and its gradient as one graph of plain operations."""
    from torch.fx.experimental.proxy_tensor import make_fx

    whole = _Whole(loss, model)
    whole.training = model.training
    trained = tuple(f"model.{n}" for n, p in model.named_parameters() if p.requires_grad)
    buffers = tuple(f"model.{n}" for n, _ in model.named_buffers())
    places = _places(whole)
    reached: dict[str, Tensor] = {}
    if not trained:
        raise Unsuitable("the model has no parameters to train")

    def joint(tensors: dict[str, Tensor], batch: Batch, draws: Any) -> Any:
        inner = {
            name: tensor.detach().requires_grad_(True) if name in trained else tensor.detach()
            for name, tensor in tensors.items()
        }
        versions = [inner[name]._version for name in buffers]
        placed = {place: inner[name] for place, name in places.items()}
        value, metrics = torch.func.functional_call(
            whole, placed, (batch, draws), tie_weights=False
        )
        for name, version in zip(buffers, versions, strict=True):
            if inner[name]._version != version:
                raise Unsuitable(f"the model changes its buffer {name.removeprefix('model.')!r}")
        gradients = torch.autograd.grad(value, [inner[n] for n in trained], allow_unused=True)
        # What the loss does not depend on has no gradient, as after a backward pass, and not zero.
        reached.clear()
        reached.update({n: g for n, g in zip(trained, gradients, strict=True) if g is not None})
        return value.detach(), {n: m.detach() for n, m in metrics.items()}, list(reached.values())

    with _while_tracing():
        graph = make_fx(joint, tracing_mode="fake")(tensors_of(model), batch, draws)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, tuple(reached)


def _places(whole: nn.Module) -> dict[str, str]:
    """Where each tensor sits, and the name it goes by: a tied one sits in several places.

    A module that is used twice under two names is one place. torch's own untying takes it for two,
    and puts back what it swapped in, not what was there.
    """
    names = {id(t): n for n, t in reversed([*whole.named_parameters(), *whole.named_buffers()])}
    places: dict[str, str] = {}
    for prefix, module in whole.named_modules():
        held = (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        )
        places |= {f"{prefix}.{attribute}": names[id(tensor)] for attribute, tensor in held}
    return places


@contextmanager
def _while_tracing() -> Iterator[None]:
    token = _tracing.set(True)
    try:
        yield
    finally:
        _tracing.reset(token)


def not_worth(graph: torch.fx.GraphModule, steps: int) -> str:
    """Why compiling a graph would not pay within so many steps; empty where it would.

    A compiled graph saves the cost of calling each operation, and most of the memory traffic of
    those that are fused; matrix products it leaves as they are, and views cost nothing anyway.
    """
    calls, computed, traffic = 0, 0, 0
    for node in graph.graph.nodes:
        results = [t for t in pytree.tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)]
        if node.op != "call_function" or not results:
            continue
        calls += 1
        if getattr(node.target, "_opname", "") not in _VIEWS | _PRODUCTS:
            computed += 1
            traffic += sum(t.numel() * t.element_size() for t in results)
    a_step = computed * _SECONDS_A_CALL + traffic / _BYTES_A_SECOND - _SECONDS_AROUND
    if a_step <= 0:
        return "a compiled step would take no less time"
    saved, cost = steps * a_step, _COMPILE_SECONDS + _COMPILE_SECONDS_A_CALL * calls
    if saved > cost:
        return ""
    return (
        f"{steps} steps would save about {math.ceil(saved)} s and compiling takes about "
        f"{math.ceil(cost)} s"
    )
