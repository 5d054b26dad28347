"""A loss and its gradient as one compiled graph, for as long as the work left pays for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias

import attrs
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from ebmkit.errors import CompileError, UserError
from ebmkit.layers import layer_name
from ebmkit.protocols import Batch, Loss, Metrics, Model

Compile: TypeAlias = Literal["auto", "on", "off"]
COMPILE: tuple[Compile, ...] = ("auto", "on", "off")

MOST_GRAPHS = 4
"""Graphs an objective keeps: one for each shape of batch and draws, and each mode of the model."""
FEWEST_STEPS = 1000
"""Runs shorter than this are not even looked at: tracing alone costs seconds."""

# What the estimate of `auto` is made of, as measured on two cores of a server; it need only be right
# within a factor of two, and never depends on the clock, so that a run repeated is the same run.
_SECONDS_A_CALL = 5e-6
_BYTES_A_SECOND = 1e10
_COMPILE_SECONDS = 20.0
_COMPILE_SECONDS_A_CALL = 0.05

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)


class CompileWarning(UserWarning):
    """A loss that runs eagerly because it could not be compiled."""


class _Unsuitable(Exception):  # noqa: N818
    """Why a loss is not compiled, where that is nobody's mistake."""


def tracing() -> bool:
    """Whether code is being traced into a graph, so that it must not branch on values of tensors."""
    return _tracing.get() or torch.compiler.is_compiling()


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
        if self.mode == "off" or not torch.is_grad_enabled():
            return self.loss(self.model, batch, draws)
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
            return self.loss(self.model, batch, draws)
        return self._run(graph, self.model, batch, draws)

    def _eagerly(self, why: str, batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
        self.decision = f"eager: {why}"
        return self.loss(self.model, batch, draws)

    def _run(
        self, graph: _Graph, model: nn.Module, batch: Batch, draws: Any
    ) -> tuple[Tensor, Metrics]:
        tensors = _tensors(model)
        # The graph holds autocast's conversions already.
        with torch.no_grad(), torch.autocast(batch.x.device.type, enabled=False):
            loss, metrics, gradients = graph.run(tensors, batch, draws)
        parameters = [tensors[name] for name in graph.trained]
        return _WithGradients.apply(loss, gradients, *parameters), metrics  # type: ignore[no-untyped-call]

    def _graph(self, batch: Batch, draws: Any) -> _Graph | None:
        """A graph for such batches, tried once; None where the loss is to run eagerly."""
        assert isinstance(self.model, nn.Module)
        if len(self._graphs) >= MOST_GRAPHS:
            self._refuse(f"batches or draws changed their shapes more than {MOST_GRAPHS} times")
            return None
        try:
            traced, trained = _trace(self.loss, self.model, batch, draws)
            if self.mode == "auto" and (why := _not_worth(traced, self.steps or 0)):
                self.decision = f"eager: {why}"
                return None
            graph = _Graph(_compiled(traced), trained)
            with warnings.catch_warnings():
                # The compiler's own use of what torch has deprecated is nothing to the user.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._run(graph, self.model, batch, draws)  # compiling happens in the first call
        except UserError:
            raise
        except _Unsuitable as reason:
            self._refuse(str(reason))
            return None
        except Exception as error:
            where = layer_name(error.__traceback__, self.model)
            # torch's first line may only say that more lines follow.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
            self._refuse(f"{where}: {type(error).__name__}: {said}")
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


def _compiled(graph: torch.fx.GraphModule) -> Callable[..., Any]:
    # What torch would check before each call is in the key that the graph is found by.
    unguarded: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    return torch.compile(graph, fullgraph=True, dynamic=False, options=unguarded)


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


class _Whole(nn.Module):
    """Loss and model as one module, so that ``functional_call`` reaches the model inside."""

    def __init__(self, loss: Loss, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.compute = loss

    def forward(self, batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
        return self.compute(self.model, batch, draws)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {f"model.{n}": t for n, t in (*model.named_parameters(), *model.named_buffers())}


def _key(model: nn.Module, batch: Batch, draws: Any) -> Any:
    """What a graph is good for; anything else needs another."""
    leaves, structure = pytree.tree_flatten((batch, draws))
    device = batch.x.device.type
    cast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return (
        structure,
        tuple(
            (x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves
        ),
        tuple(m.training for m in model.modules()),
        tuple((p.requires_grad, p.dtype, p.device, p.stride()) for p in model.parameters()),
        torch.are_deterministic_algorithms_enabled(),
        cast,
    )


def _trace(
    loss: Loss, model: nn.Module, batch: Batch, draws: Any
) -> tuple[torch.fx.GraphModule, tuple[str, ...]]:
    """The loss, its metrics and its gradient as one graph of plain operations."""
    from torch.fx.experimental.proxy_tensor import make_fx

    whole = _Whole(loss, model)
    whole.training = model.training
    trained = tuple(f"model.{n}" for n, p in model.named_parameters() if p.requires_grad)
    buffers = tuple(f"model.{n}" for n, _ in model.named_buffers())
    places = _places(whole)
    if not trained:
        raise _Unsuitable("the model has no parameters to train")

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
                raise _Unsuitable(f"the model changes its buffer {name.removeprefix('model.')!r}")
        parameters = [inner[name] for name in trained]
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        filled = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(parameters, gradients, strict=True)
        ]
        return value.detach(), {n: m.detach() for n, m in metrics.items()}, filled

    with _while_tracing():
        graph = make_fx(joint, tracing_mode="fake")(_tensors(model), batch, draws)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph, trained


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


def _not_worth(graph: torch.fx.GraphModule, steps: int) -> str:
    """Why compiling a graph would not pay within so many steps; empty where it would.

    A compiled graph saves the cost of calling each operation, and most of the memory traffic of
    those that are fused; matrix products it leaves as they are.
    """
    calls, traffic = 0, 0
    for node in graph.graph.nodes:
        results = [t for t in pytree.tree_leaves(node.meta.get("val")) if isinstance(t, Tensor)]
        if node.op != "call_function" or not results:
            continue
        calls += 1
        traffic += sum(t.numel() * t.element_size() for t in results)
    saved = steps * (calls * _SECONDS_A_CALL + traffic / _BYTES_A_SECOND)
    cost = _COMPILE_SECONDS + _COMPILE_SECONDS_A_CALL * calls
    if saved > cost:
        return ""
    return (
        f"{steps} steps would save about {math.ceil(saved)} s and compiling takes about "
        f"{math.ceil(cost)} s"
    )
