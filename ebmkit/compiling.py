"""A loss and its gradient as one compiled graph, for as long as the work left pays for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import attrs
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ebmkit.errors import CompileError, PluginError, UserError
from ebmkit.graphs import not_worth, tensors_of, trace
from ebmkit.lowering import (
    CompileWarning,
    Unsuitable,
    compiled,
    complaint,
    facts,
    layout,
    quietly,
    surroundings,
    without_autocast,
)
from ebmkit.protocols import Batch, Loss, Metrics, Model
from ebmkit.returns import computed

Compile: TypeAlias = Literal["auto", "on", "off"]
COMPILE: tuple[Compile, ...] = ("auto", "on", "off")

Computed: TypeAlias = tuple[Tensor, Metrics, dict[Tensor, Tensor] | None]

MOST_GRAPHS = 4
"""Graphs an objective keeps: one for each shape of batch and draws, and each mode of the model."""
FEWEST_STEPS = 1000
"""Runs shorter than this are not even looked at: tracing alone costs seconds."""


@attrs.frozen
class _Graph:
    """A compiled loss: (parameters and buffers, batch and draws) -> loss, metrics, gradients."""

    run: Callable[..., Any]
    trained: tuple[str, ...]
    """Names of the parameters that a gradient is taken in."""


class CompiledLoss:
    """Calls a loss by a graph that gives the loss and its gradient at once, where that pays.

    The graph is traced from the loss's own code with the model's parameters as inputs, so it is the
    same mathematics; results agree with eager ones to rounding.
    """

    def __init__(self, loss: Loss, model: Model, *, mode: Compile, steps: int | None) -> None:
        if mode not in COMPILE:
            raise ValueError(f"compile: expected one of {', '.join(COMPILE)}, got {mode!r}")
        self.loss = loss
        self.model = model
        self.mode = mode
        self.steps = steps
        self.decision = "eager: compile is off" if mode == "off" else ""
        """How the loss is computed, and why; empty before the first step."""
        self._graphs: dict[Any, _Graph | None] = {}
        self._warned = False

    def __call__(self, batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
        """The loss, whose ``backward()`` gives the parameters their gradients, and metrics."""
        loss, metrics, gradients = self.with_gradients(batch, draws)
        if gradients is not None:
            loss = _WithGradients.apply(loss, list(gradients.values()), *gradients)  # type: ignore[no-untyped-call]
        return loss, metrics

    def with_gradients(self, batch: Batch, draws: Any) -> Computed:
        """Loss, metrics, and by parameter the loss's gradient; None where ``backward()`` gives it."""
        if self.mode == "off" or not torch.is_grad_enabled():
            return *computed(self.loss, self.model, batch, draws), None
        if not isinstance(self.model, nn.Module):
            return self._eagerly("the model is no nn.Module", batch, draws)
        if self.mode == "auto" and (self.steps or 0) < FEWEST_STEPS:
            steps = "an unknown number of" if self.steps is None else str(self.steps)
            return self._eagerly(f"{steps} steps do not pay for compiling", batch, draws)
        key = _key(self.model, batch, draws)
        if key not in self._graphs:
            self._graphs[key] = self._graph(batch, draws)
        graph = self._graphs[key]
        if graph is None:
            return *computed(self.loss, self.model, batch, draws), None
        return self._run(graph, self.model, batch, draws)

    def _eagerly(self, why: str, batch: Batch, draws: Any) -> Computed:
        self.decision = f"eager: {why}"
        return *computed(self.loss, self.model, batch, draws), None

    def _run(self, graph: _Graph, model: nn.Module, batch: Batch, draws: Any) -> Computed:
        tensors = tensors_of(model)
        with torch.no_grad(), without_autocast(batch.x.device.type):
            loss, metrics, gradients = graph.run(tensors, batch, draws)
        if len({gradient.data_ptr() for gradient in gradients}) < len(gradients):
            # Equal ones may be one tensor, which clipping would scale once for each.
            gradients = [gradient.clone() for gradient in gradients]
        return loss, metrics, {tensors[n]: g for n, g in zip(graph.trained, gradients, strict=True)}

    def _graph(self, batch: Batch, draws: Any) -> _Graph | None:
        """A graph for such batches, tried once; None where the loss is to run eagerly."""
        assert isinstance(self.model, nn.Module)
        if len(self._graphs) >= MOST_GRAPHS:
            self._refuse(f"batches or draws changed their shapes more than {MOST_GRAPHS} times")
            return None
        try:
            traced, trained = trace(self.loss, self.model, batch, draws)
            if self.mode == "auto" and (why := not_worth(traced, self.steps or 0)):
                self.decision = f"eager: {why}"
                return None
            graph = _Graph(compiled(traced), trained)
            with quietly():
                self._run(graph, self.model, batch, draws)  # compiling happens in the first call
        except (UserError, PluginError):
            raise
        except Unsuitable as reason:
            self._refuse(str(reason))
            return None
        except Exception as error:
            self._refuse(complaint(error, self.model))
            return None
        self.decision = "compiled"
        return graph

    def _refuse(self, why: str) -> None:
        name = type(self.loss).__name__
        if self.mode == "on":
            raise CompileError(
                f'{name} cannot be compiled: {why}; set compile = "off", or "auto" to go on without'
            )
        self.decision = f"eager: {why}"
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f'{name} runs eagerly, for it cannot be compiled: {why}; compile = "off" says so at once',
            CompileWarning,
            stacklevel=5,
        )


class _WithGradients(torch.autograd.Function):
    """A loss that comes with its gradient: backward has nothing left to compute."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor, ...], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Any:
        return None, None, *torch._foreach_mul(list(ctx.gradients), outer)


def _key(model: nn.Module, batch: Batch, draws: Any) -> Any:
    """What a graph is good for; anything else needs another."""
    return layout((batch, draws)), facts(model), surroundings(batch.x.device.type)
