"""A loss bound to a model: what a hand-written PyTorch loop calls on each batch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebmkit.build import section
from ebmkit.chains.conduct import Conduct, Starts, conducted
from ebmkit.chains.starts import rows_like, starts_around
from ebmkit.compiling import Compile, CompiledLoss
from ebmkit.data import as_batch, finite_by_row
from ebmkit.errors import DivergenceError, UserError, expect_parts
from ebmkit.fields import generator_or_new
from ebmkit.fitness import unsuited
from ebmkit.forces import mean_force
from ebmkit.holding import evaluating
from ebmkit.lowering import complaint
from ebmkit.protocols import Batch, Energy, Loss, Metrics, Model
from ebmkit.ranks import Ranks
from ebmkit.returns import drawn
from ebmkit.sections import Chains
from ebmkit.shares import share


class LossOutput(NamedTuple):
    """What one call of an objective gives."""

    loss: Tensor
    """Without dimensions; call ``backward()`` on it."""
    metrics: Metrics
    negatives: Tensor | None
    """(batch, *event), or None where the loss draws none."""


class Objective:
    """A loss bound to a model. It owns the loss's state (such as a replay buffer) and its step."""

    def __init__(
        self,
        loss: Loss,
        model: Model,
        *,
        generator: torch.Generator | None = None,
        compile: Compile = "auto",  # noqa: A002
        steps: int | None = None,
        conduct: Conduct | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.loss = loss
        self.model = model
        self.generator = generator
        self.computation = CompiledLoss(loss, model, mode=compile, steps=steps)
        """How the loss is computed; its ``decision`` says whether compiled, and why."""
        self.conduct = conduct or Conduct()
        """How the loss's chains are run, and what became of them."""
        self.ranks = ranks or Ranks()
        """The processes among which the loss's state is shared."""
        self.state: Any = None
        self.step = 0
        self._forceless = False

    def __call__(self, batch: Any, *, force: bool = False) -> LossOutput:
        """The loss on a batch: a tensor (batch, *event), a pair (points, condition), or a Batch.

        The model is in evaluation mode while chains run, and as it was while the loss is computed.
        With ``force`` the metrics tell the mean of ‖∇E‖ at the negatives as ``force``, where there
        are continuous ones and the energy has a gradient; nothing else is changed by that.

        Raises:
            DataError: the batch is none of these.
            DivergenceError: the loss or a chain is not finite; nothing is kept of such a step.
            CompileError: ``compile="on"`` and the loss cannot be compiled.
            PluginError: the loss returns something else than its protocol says.
        """
        return self._taken(as_batch(batch), force, self.computation)

    def with_gradients(
        self, batch: Batch, *, force: bool = False
    ) -> tuple[LossOutput, dict[Tensor, Tensor] | None]:
        """What a call gives, and by parameter the loss's gradient where it is known already; where it
        is None the loss's ``backward()`` gives it."""
        gradients: list[dict[Tensor, Tensor] | None] = []

        def computed(batch: Batch, draws: Any) -> tuple[Tensor, Metrics]:
            loss, metrics, found = self.computation.with_gradients(batch, draws)
            gradients.append(found)
            return loss, metrics

        return self._taken(batch, force, computed), gradients[0]

    def _taken(self, batch: Batch, force: bool, compute: Callable[..., Any]) -> LossOutput:
        draws, state = self.draw(batch)
        told = self._force(batch, draws) if force else {}
        loss, metrics = compute(batch, draws)
        if not torch.isfinite(loss):
            raise DivergenceError(
                f"{type(self.loss).__name__}: the loss is {loss.item()} at step {self.step}",
                step=self.step,
            )
        self.state = state
        self.step += 1
        return LossOutput(loss, metrics | told, getattr(draws, "negatives", None))

    def draw(self, batch: Batch) -> tuple[Any, Any]:
        """The draws of the present step and the state after it; the objective stays as it is, but
        for the state before the first step."""
        if self.generator is None:
            self.generator = generator_or_new(None, batch.x.device)
        with evaluating(self.model), conducted(self.conduct):
            if self.state is None:
                whole = self.loss.init(self.model, batch, generator=self.generator)
                self.state = share(self.loss, whole, self.ranks.rank, self.ranks.size)
            self.conduct.starts = self._starts(batch)
            try:
                result: Any = self.loss.draw(
                    self.model, batch, self.state, self.step, generator=self.generator
                )
            except DivergenceError as error:
                raise DivergenceError(
                    f"training step {self.step}: {error}", step=self.step, chains=error.chains
                ) from error
            finally:
                self.conduct.starts = None
        return drawn(self.loss, result)

    @property
    def chains(self) -> Batch | None:
        """Where the chains are that the loss keeps from step to step; None where it keeps none."""
        chains = getattr(self.loss, "chains", None)
        return None if chains is None or self.state is None else chains(self.state)

    def _force(self, batch: Batch, draws: Any) -> Metrics:
        """The metric ``force``, if there is one."""
        x, condition = getattr(draws, "negatives", None), getattr(draws, "condition", None)
        unknown = batch.condition is not None and condition is None
        if (
            self._forceless
            or x is None
            or unknown
            or self._discrete
            or getattr(self.model, "discrete", False)
        ):
            return {}
        energy = bind(self.model, condition)
        try:
            with evaluating(self.model):
                found = mean_force(energy, x)
        except Exception as error:
            # A metric is no reason to end a run; that it is missing is said, once.
            self._forceless = True
            warnings.warn(
                f"the metric force is left out, for ∇E at the negatives cannot be computed: "
                f"{complaint(error, energy)}",
                RuntimeWarning,
                stacklevel=2,
            )
            return {}
        return {} if found is None else {"force": found}

    @property
    def _discrete(self) -> bool:
        """Whether the loss's chains are of discrete states."""
        return bool(getattr(getattr(self.loss, "sampler", None), "discrete", False))

    def _starts(self, batch: Batch) -> Starts:
        """Where chains that diverge begin anew in this step."""
        if self.conduct.restart_from == "base":
            discrete = self._discrete
            data = Batch(batch.x[finite_by_row(batch.x)])
            return lambda n, g, _: starts_around(data, n, generator=g, discrete=discrete).x
        source = self.chains if self.conduct.restart_from == "buffer" else None
        source = batch if source is None else source
        return lambda n, g, condition: rows_like(source, n, condition, generator=g)


def objective(
    loss: Loss,
    model: Model,
    *,
    generator: torch.Generator | None = None,
    compile: Compile = "auto",  # noqa: A002
    steps: int | None = None,
    chains: Mapping[str, str] | None = None,
) -> Objective:
    """Bind a loss to a model for a hand-written loop.

    Without a generator a new one is seeded from the operating system; pass one to reproduce a run.
    ``compile`` says whether loss and gradient are compiled into one graph: "on", "off", or "auto",
    which does so where ``steps``, the training steps to come, pay for it by an estimate from the
    graph (never by the clock, so that a run repeated is the same run); without ``steps`` it does not.
    ``chains`` are the keys of a pipeline's table of that name, as ``{"on_divergence": "restart"}``.

    Raises:
        UserError: loss or model is the name of one, a class, or an object that is neither.
    """
    expect_parts(loss=loss, model=model)
    for kind, part in (("loss", loss), ("model", model)):
        if wrong := unsuited(kind, part):
            raise UserError(f"{kind}: {wrong}")
    stated = section("chains", chains or {})
    conduct = conduct_of(stated, runs=steps or 1)
    return Objective(
        loss, model, generator=generator, compile=compile, steps=steps, conduct=conduct
    )


def conduct_of(chains: Chains, *, runs: int) -> Conduct:
    """The conduct that a pipeline's table states, for so many runs of chains in all."""
    return Conduct(
        compile=chains.compile,
        on_divergence=chains.on_divergence,
        restart_from=chains.restart_from,
        runs=runs,
    )


def bind(model: Model, condition: Tensor | None) -> Energy:
    """The energy of a model at a condition; samplers see nothing else of a model."""
    return model if condition is None else partial(model, condition=condition)


def conditional(model: Model) -> bool:
    """Whether a model takes a condition: by its attribute ``conditional``, else by its signature."""
    said = getattr(model, "conditional", None)
    if said is not None:
        return bool(said)
    called = model.forward if isinstance(model, nn.Module) else model
    try:
        return "condition" in inspect.signature(called).parameters
    except (TypeError, ValueError):
        return False


def probe(
    model: Model, event_shape: tuple[int, ...], n_classes: int | None, device: torch.device
) -> str:
    """What is wrong with a model for such events, told by two points at the origin; empty where
    nothing is."""
    if conditional(model) and n_classes is None and getattr(model, "conditional", None):
        return (
            "the model is conditional and the data have no labels; choose labelled data, or "
            "conditional = false"
        )
    dtype = next(
        (p.dtype for p in model.parameters()) if isinstance(model, nn.Module) else iter(()),
        torch.get_default_dtype(),
    )
    x = torch.zeros(2, *event_shape, device=device, dtype=dtype)
    condition = None
    if conditional(model) and n_classes is not None:
        condition = torch.zeros(2, dtype=torch.long, device=device)
    name = type(model).__name__
    try:
        with evaluating(model), torch.no_grad():
            energies = bind(model, condition)(x)
    except Exception as error:
        return (
            f"{name} cannot take the data's events of shape {event_shape}: "
            f"{type(error).__name__}: {error}"
        )
    if not isinstance(energies, Tensor) or energies.shape != (2,):
        got = tuple(energies.shape) if isinstance(energies, Tensor) else type(energies).__name__
        return (
            f"{name} must return one energy a row, shape (2,) for two rows of shape {event_shape}, "
            f"got {got}"
        )
    return ""
