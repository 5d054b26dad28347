"""A loss, its metrics and its gradient traced into one graph, and what compiling that would save."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ebmkit.loops import again
from ebmkit.lowering import Unsuitable, made_graph
from ebmkit.operations import PRODUCTS, VIEWS
from ebmkit.protocols import Batch, Loss, Metrics
from ebmkit.returns import computed

# What the estimate of `auto` is made of, as measured on two cores of a server; it need only be right
# within a factor of two, and never depends on the clock, so that a run repeated is the same run.
SECONDS_A_CALL = 5e-6
BYTES_A_SECOND = 2e10
_SECONDS_AROUND = 2.5e-4
"""What finding and calling a graph, and handing its gradients over, takes itself."""
_COMPILE_SECONDS = 20.0
_COMPILE_SECONDS_A_CALL = 0.05
# A chain's step is less than a loss and its gradient: what is saved is less too, and so is the cost.
_SECONDS_A_STEP_CALL = 1.5e-6
_STEP_BYTES_A_SECOND = 4e10
_STEP_COMPILE_SECONDS = 10.0
_STEP_COMPILE_SECONDS_A_CALL = 0.04


class _Whole(nn.Module):
    """Loss and model as one module, so that ``functional_call`` reaches the model inside."""

    def __init__(self, loss: Loss, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.compute = loss

    def forward(self, batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
        return computed(self.compute, self.model, batch, draws)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers by name, one that sits in several places by the first."""
    parameters: dict[int, tuple[str, Tensor]] = {}
    buffers: dict[int, tuple[str, Tensor]] = {}
    # By the tables themselves, in half of the time that torch's own walk takes.
    for prefix, module in model.named_modules(prefix="model"):
        for found, table in ((parameters, module._parameters), (buffers, module._buffers)):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in found:
                    found[id(tensor)] = f"{prefix}.{name}", tensor
    return dict((*parameters.values(), *buffers.values()))


def trace(
    loss: Loss, model: nn.Module, batch: Batch, draws: Any
) -> tuple[torch.fx.GraphModule, tuple[str, ...]]:
    """The loss, its metrics and its gradient as one graph of plain operations."""
    whole = _Whole(loss, model)
    whole.training = model.training
    trained = tuple(f"model.{n}" for n, p in model.named_parameters() if p.requires_grad)
    buffers = tuple(f"model.{n}" for n, _ in model.named_buffers())
    places = places_of(whole)
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

    graph = made_graph(joint, tensors_of(model), batch, draws)
    return graph, tuple(reached)


def places_of(whole: nn.Module) -> dict[str, str]:
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


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of a step while it is taken, and what they write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0
        """Operations, views not counted; of a loop's those of its first turn, as in a graph."""
        self.computed = 0
        """Those of them that are no matrix products, which a compiler leaves as they are."""
        self.traffic = 0
        """Bytes that those write."""
        self.loops = False
        """Whether there was a loop that was gone through."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "_opname", "")
        if name not in VIEWS:
            self.calls += not again()
            self.loops |= again()
            if name not in PRODUCTS:
                self.computed += 1
                written = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
                self.traffic += sum(t.numel() * t.element_size() for t in written)
        return result

    def not_worth(self, steps: int, calls: int) -> str:
        """Why compiling so many operations, which such steps are made of, would not pay; empty where it
        would."""
        a_step = self.computed * _SECONDS_A_STEP_CALL + self.traffic / _STEP_BYTES_A_SECOND
        saved = steps * a_step
        cost = _STEP_COMPILE_SECONDS + _STEP_COMPILE_SECONDS_A_CALL * calls
        if saved > cost:
            return ""
        return (
            f"{steps} steps would save about {saved:.2g} s and compiling takes about "
            f"{math.ceil(cost)} s"
        )


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
        if getattr(node.target, "_opname", "") not in VIEWS | PRODUCTS:
            computed += 1
            traffic += sum(t.numel() * t.element_size() for t in results)
    a_step = computed * SECONDS_A_CALL + traffic / BYTES_A_SECOND - _SECONDS_AROUND
    if a_step <= 0:
        return "a compiled step would take no less time"
    saved, cost = steps * a_step, _COMPILE_SECONDS + _COMPILE_SECONDS_A_CALL * calls
    if saved > cost:
        return ""
    return (
        f"{steps} steps would save about {math.ceil(saved)} s and compiling takes about "
        f"{math.ceil(cost)} s"
    )
