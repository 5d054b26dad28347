"""What moves while a model is trained: weights, their average, optimizer, data order, loss state."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ebmkit.averages import average, copied
from ebmkit.data import Feed, finite_by_row, with_noise
from ebmkit.devices import deterministic
from ebmkit.divergence import check_gap, endless_gradient
from ebmkit.errors import DataError, UserError
from ebmkit.fields import is_scheduled
from ebmkit.objectives import LossOutput, Objective
from ebmkit.optimizers import OptimizerPlan
from ebmkit.protocols import Batch, Metrics, Model, Scheduler
from ebmkit.ranks import Ranks
from ebmkit.sections import Training
from ebmkit.shares import ORDER, held_alone, summed, take_over

if TYPE_CHECKING:
    from ebmkit.sharding import Sharded


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
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.model = model
        self.module = model if isinstance(model, nn.Module) else None
        self.objective = objective
        self.feed = feed
        self.training = training
        self.lr_schedule = lr_schedule
        weights = list(self.module.parameters()) if self.module is not None else []
        self._sharded: Sharded | None = None
        """The weights where they are shared out among several processes."""
        if training.sharding == "full" and ranks.size > 1 and self.module is not None and weights:
            from ebmkit.sharding import Sharded  # imports much of torch

            self._sharded = Sharded(self.module)
            weights = self._sharded.parameters
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
        self._parallel: Callable[[Callable[[], Tensor]], Tensor] | None = self._sharded
        """Around the model where several processes train it, from the first step on."""
        self._elsewhere: dict[str, int] = {}
        """What had become of other processes' chains when the state was last told."""
        self.averaged: nn.Module | None = None
        if training.ema_decay is not None and self.module is not None:
            self.averaged = copied(self.module)
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
            DeviceError: the run is to be deterministic, and there is no way to do an operation so.
        """
        module, optimizer = self.check_trainable()
        generators = [(g, g.get_state()) for _, g in self.generators()]
        before = self.objective.state, self.objective.step, self.feed.order, self.feed.position
        try:
            with deterministic(self.training.deterministic):
                return self._step(module, optimizer)
        except BaseException as error:
            if self._sharded is not None and self.ranks.in_step(error):
                self._sharded.gather()
            # A step that was not taken, interrupted or not, has drawn nothing.
            self.objective.state, self.objective.step, self.feed.order, self.feed.position = before
            for generator, state in generators:
                generator.set_state(state)
            raise

    def _step(self, module: nn.Module, optimizer: Optimizer) -> Metrics:
        step = self.done
        if self.lr_schedule is not None or self.rollbacks:
            for group, stated in zip(optimizer.param_groups, self._stated_lr, strict=True):
                lr = stated if self.lr_schedule is None else self.lr_schedule(step)
                group["lr"] = lr * self.lr_factor
        for parameter in self.parameters:
            parameter.grad = None
        if not module.training:
            module.train()
        with self.ranks.together():
            output, known = self._computed(module, step)
            check_gap(output.metrics, self.training.energy_gap_limit, step)
        with self.ranks.averaging():
            self._give_gradients(output.loss, known)
        metrics = {"loss": output.loss.detach(), **output.metrics}
        if self.records(step):
            metrics = self.ranks.reduced(metrics)
        limit = self.training.gradient_clip
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        if self._sharded is not None:
            norm = self._sharded.joined(norm)
        metrics["gradient_norm"] = norm
        if not torch.isfinite(norm):
            raise self.ranks.everywhere(endless_gradient(norm, step))
        self.whole = False
        optimizer.step()
        if self._sharded is not None:
            self._sharded.gather()
        if self.averaged is not None:
            self._average(self.averaged, module, step)
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
        return back | summed([self.objective.conduct.counts(), self._elsewhere])

    def _computed(
        self, module: nn.Module, step: int
    ) -> tuple[LossOutput, dict[Tensor, Tensor] | None]:
        """The loss on this process's batch, and its gradients where they are known and no other process
        has any."""
        if self.ranks.size == 1:
            batch = self._batch(step)
            with self._autocast(batch.x.device):
                return self.objective.with_gradients(batch, force=self.records(step))
        if self._parallel is None:
            self._parallel = self.ranks.parallel(module)
        found: list[LossOutput] = []

        def work() -> Tensor:
            batch = self._batch(step)
            with self._autocast(batch.x.device):
                found.append(self.objective(batch, force=self.records(step)))
            return found[0].loss

        loss = self._parallel(work)
        return found[0]._replace(loss=loss), None

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
            self.kept = copied(present)
        else:
            self.kept.load_state_dict(present.state_dict())
        self.kept_step = self.done

    def check_trainable(self) -> tuple[nn.Module, Optimizer]:
        """The module and its optimizer.

        Raises:
            UserError: the model has no parameters to train.
        """
        if self.optimizer is None or self.module is None:
            raise UserError("model: it has no parameters to train; choose a model that has some")
        return self.module, self.optimizer

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs, in all processes: each of them calls this at once, and the
        first one's answer holds what they all hold alone."""
        first, *others = self.ranks.gathered(held_alone(self))
        self._elsewhere = summed([one["chains"] for one in others])
        optimizer = self.optimizer
        state_of = Optimizer.state_dict if self._sharded is None else self._sharded.state_of
        return {
            "step": self.done,
            "kept_step": self.kept_step,
            "weights": {name: module.state_dict() for name, module in self._modules()},
            "optimizer": None if optimizer is None else state_of(optimizer),
            "rollbacks": {"count": self.rollbacks, "went_back_to": self.went_back_to},
            "order": {"rows": self.feed.order, "position": self.feed.position},
            **first,
            "others": others,
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
            if self._sharded is not None and module is self.module:
                self._sharded.load(state["weights"][name])
            else:
                module.load_state_dict(state["weights"][name])
        if self.optimizer is not None and self._sharded is not None:
            self._sharded.load_state_of(self.optimizer, state["optimizer"])
        elif self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.objective.step = state["step"]
        self.rollbacks = state["rollbacks"]["count"]
        self.went_back_to = state["rollbacks"]["went_back_to"]
        self.whole = True
        take_over(self, [state, *state.get("others", ())])
        order = state["order"]["rows"]
        self.feed.order = None if order is None else order.cpu()
        self.feed.position = state["order"]["position"]

    def _modules(self) -> list[tuple[str, nn.Module]]:
        named = (("trained", self.module), ("averaged", self.averaged), ("kept", self.kept))
        return [(name, module) for name, module in named if module is not None]

    def generators(self) -> list[tuple[str, torch.Generator]]:
        """The generators that training draws from, by purpose."""
        named = [("loss", self.objective.generator), ("data", self.feed.generator)]
        if self.feed.order_generator is not self.feed.generator:
            named.append((ORDER, self.feed.order_generator))
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

    def _average(self, averaged: nn.Module, module: nn.Module, step: int) -> None:
        assert self.training.ema_decay is not None
        average(averaged, module, self.training.ema_decay, step)

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if self.training.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)
