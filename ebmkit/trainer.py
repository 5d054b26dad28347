"""What moves while a model is trained: weights, their average, optimizer, data order, loss state."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ebmkit.data import Feed, finite_by_row, with_noise
from ebmkit.errors import DataError, DivergenceError, UserError
from ebmkit.fields import is_scheduled
from ebmkit.objectives import Objective
from ebmkit.optimizers import OptimizerPlan
from ebmkit.protocols import Batch, Metrics, Model, Scheduler
from ebmkit.sections import Training


class Trainer:
    """Takes training steps: draw, compute, backward, update."""

    def __init__(
        self,
        *,
        model: Model,
        objective: Objective,
        feed: Feed,
        training: Training,
        optimizer: OptimizerPlan,
        lr_schedule: Scheduler | None,
    ) -> None:
        self.model = model
        self.module = model if isinstance(model, nn.Module) else None
        self.objective = objective
        self.feed = feed
        self.training = training
        self.lr_schedule = lr_schedule
        weights = self.module.parameters() if self.module is not None else ()
        self.parameters = [p for p in weights if p.requires_grad]
        self.optimizer = optimizer.build(self.parameters) if self.parameters else None
        groups = self.optimizer.param_groups if self.optimizer else ()
        self._stated_lr = [group["lr"] for group in groups]
        self.rollbacks = 0
        """How often training went back after a divergence."""
        self.went_back_to = 0
        """The step that it went back to last."""
        self.whole = True
        """Whether weights, optimizer and average are of one step; not while they are updated."""
        self.averaged: nn.Module | None = None
        if training.ema_decay is not None and self.module is not None:
            self.averaged = _copy(self.module)
        self.kept: nn.Module | None = None
        """The model as it was when ``keep`` was last called."""
        self.kept_step: int | None = None

    @property
    def done(self) -> int:
        """Training steps done."""
        return self.objective.step

    def step(self) -> Metrics:
        """One training step.

        Raises:
            UserError: the model has no parameters to train.
            DataError: the batch is not finite.
            DivergenceError: the loss, a gradient or a chain is not finite. The step is not taken.
        """
        module, optimizer = self.check_trainable()
        generators = [(g, g.get_state()) for _, g in self.generators()]
        before = self.objective.state, self.objective.step, self.feed.order, self.feed.position
        try:
            return self._step(module, optimizer)
        except BaseException:
            # A step that was not taken, interrupted or not, has drawn nothing.
            self.objective.state, self.objective.step, self.feed.order, self.feed.position = before
            for generator, state in generators:
                generator.set_state(state)
            raise

    def _step(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> Metrics:
        step = self.done
        batch = self._batch(step)
        if self.lr_schedule is not None or self.rollbacks:
            for group, stated in zip(optimizer.param_groups, self._stated_lr, strict=True):
                lr = stated if self.lr_schedule is None else self.lr_schedule(step)
                group["lr"] = lr * self.lr_factor
        for parameter in self.parameters:
            parameter.grad = None
        if not module.training:
            module.train()
        with self._autocast(batch.x.device):
            output, known = self.objective.with_gradients(batch, force=self.records(step))
        self._give_gradients(output.loss, known)
        metrics = {"loss": output.loss.detach(), **output.metrics}
        limit = self.training.gradient_clip
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        metrics["gradient_norm"] = norm
        if not torch.isfinite(norm):
            raise DivergenceError(
                f"the gradient's norm is {norm.item()} at step {step}; a smaller learning rate, or "
                "more regularisation of the energy, keeps it finite",
                step=step,
            )
        self._check_gap(metrics, step)
        self.whole = False
        optimizer.step()
        if self.averaged is not None:
            self._average(self.averaged, step)
        self.whole = True
        return metrics

    @property
    def lr_factor(self) -> float:
        """What rollbacks have left of the learning rate."""
        factor: float = self.training.rollback_factor**self.rollbacks
        return factor

    def counts(self) -> dict[str, int]:
        """What became of chains that diverged, and of the run where it may go back."""
        back = {"rollbacks": self.rollbacks} if self.training.on_divergence == "rollback" else {}
        return back | self.objective.conduct.counts()

    def _check_gap(self, metrics: Metrics, step: int) -> None:
        gap, limit = metrics.get("energy_gap"), self.training.energy_gap_limit
        if gap is not None and abs(float(gap)) > limit:
            raise DivergenceError(
                f"the energy gap is {float(gap):.3g} nats at step {step}, beyond "
                f"training.energy_gap_limit = {limit:g}; a smaller learning rate, or more "
                "regularisation of the energy, keeps it small",
                step=step,
            )

    def _give_gradients(self, loss: Tensor, known: dict[Tensor, Tensor] | None) -> None:
        """Give the parameters their gradients, by way of a backward pass where they are not known, or
        where something of the user's waits for them on that way."""
        if known is None:
            torch.autograd.backward(loss)
        elif any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self.parameters):
            torch.autograd.backward(list(known), list(known.values()))
        else:
            for parameter, gradient in known.items():
                parameter.grad = gradient

    def records(self, step: int) -> bool:
        """Whether the metrics of a step, counted from 0, are to be recorded."""
        done = step + 1
        return done % self.training.log_every == 0 or done == self.training.steps

    def keep(self) -> None:
        """Keep the present weights, averaged where an average is kept."""
        present = self.module if self.averaged is None else self.averaged
        assert present is not None
        if self.kept is None:
            self.kept = _copy(present)
        else:
            self.kept.load_state_dict(present.state_dict())
        self.kept_step = self.done

    def check_trainable(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module and its optimizer.

        Raises:
            UserError: the model has no parameters to train.
        """
        if self.optimizer is None or self.module is None:
            raise UserError("model: it has no parameters to train; choose a model that has some")
        return self.module, self.optimizer

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs."""
        return {
            "step": self.done,
            "kept_step": self.kept_step,
            "weights": {name: module.state_dict() for name, module in self._modules()},
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "loss": self.objective.state,
            "chains": self.objective.conduct.counts(),
            "generators": {name: g.get_state() for name, g in self.generators()},
            "rollbacks": {"count": self.rollbacks, "went_back_to": self.went_back_to},
            "order": {"rows": self.feed.order, "position": self.feed.position},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned.

        Raises:
            KeyError, RuntimeError: the state is of other parts.
        """
        if "kept" in state["weights"]:
            self.keep()
        else:
            self.kept = None
        self.kept_step = state["kept_step"]
        for name, module in self._modules():
            module.load_state_dict(state["weights"][name])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.objective.step = state["step"]
        self.objective.state = state["loss"]
        self.objective.conduct.load_counts(state.get("chains", {}))
        for name, generator in self.generators():
            generator.set_state(state["generators"][name].cpu())
        self.rollbacks = state["rollbacks"]["count"]
        self.went_back_to = state["rollbacks"]["went_back_to"]
        self.whole = True
        order = state["order"]["rows"]
        self.feed.order = None if order is None else order.cpu()
        self.feed.position = state["order"]["position"]

    def _modules(self) -> list[tuple[str, nn.Module]]:
        named = (("trained", self.module), ("averaged", self.averaged), ("kept", self.kept))
        return [(name, module) for name, module in named if module is not None]

    def generators(self) -> list[tuple[str, torch.Generator]]:
        """The generators that training draws from, by purpose."""
        named = (("loss", self.objective.generator), ("data", self.feed.generator))
        return [(name, generator) for name, generator in named if generator is not None]

    def data_noise(self, step: int) -> float:
        """Standard deviation of the noise that a step adds to the positives."""
        said = self.training.data_noise
        return said(step) if is_scheduled(said) else said  # type: ignore[return-value]

    def _batch(self, step: int) -> Batch:
        batch = self.feed.draw()
        finite = torch.isfinite(batch.x)
        if not finite.all():
            bad = int((~finite_by_row(batch.x)).sum())
            raise DataError(
                f"dataset {type(self.feed.dataset).__name__}: {bad} of {len(batch.x)} points of the "
                f"batch at step {step} are not finite; mend the data"
            )
        return with_noise(batch, self.data_noise(step), generator=self.feed.generator)

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self.training.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    @torch.no_grad()
    def _average(self, averaged: nn.Module, step: int) -> None:
        assert self.module is not None and self.training.ema_decay is not None
        # A young average leans on the present weights, not on those it began with.
        weight = max(1 - self.training.ema_decay, 9 / (step + 10))
        ours: list[Tensor] = list(averaged.parameters())
        theirs: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(ours, theirs, weight)
        for mine, other in zip(averaged.buffers(), self.module.buffers(), strict=True):
            mine.copy_(other)


def _copy(module: nn.Module) -> nn.Module:
    """A copy whose weights get no gradients."""
    # What a hook such as spectral_norm's has computed cannot be copied with its history.
    computed = {
        id(value): value.detach().clone()
        for inner in module.modules()
        for value in vars(inner).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed).requires_grad_(False)
