"""Train, sample and judge on plain objects; what is kept on disk is the run directory's business."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ebmkit.chains import run_chain
from ebmkit.data import Feed
from ebmkit.errors import DataError, DivergenceError, UserError
from ebmkit.fields import is_scheduled
from ebmkit.hooks import Hooks, Run
from ebmkit.objective import Objective, bind, conditional, evaluating
from ebmkit.optimizers import OptimizerPlan
from ebmkit.protocols import Batch, Dataset, Loss, Metrics, Model, Sampler, Scheduler
from ebmkit.spec import Evaluation, Training

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ebmkit.evaluation import Judgement


class Pipeline:
    """Parts that fit together: what ``ebmkit.compose`` returns.

    ``model`` is the model to use: after ``fit`` with ``ema_decay`` it has the averaged weights, and
    ``trained`` is the one that the optimizer moves.
    """

    def __init__(
        self,
        *,
        model: Model,
        sampler: Sampler | None,
        loss: Loss,
        dataset: Dataset,
        training: Training,
        evaluation: Evaluation,
        optimizer: OptimizerPlan,
        lr_schedule: Scheduler | None,
        device: torch.device,
        tables: Mapping[str, Any],
        notices: tuple[str, ...] = (),
    ) -> None:
        self.trained = model
        self.sampler = sampler
        self.loss = loss
        self.dataset = dataset
        self.training = training
        self.evaluation = evaluation
        self.device = device
        self.tables = tables
        """The resolved spec: every default, and whose each part is."""
        self.notices = notices
        """Lines that a person should see."""
        self.step = 0
        """Training steps done."""
        self._interrupted = False
        self.averaged: nn.Module | None = None
        if training.ema_decay is not None and isinstance(model, nn.Module):
            self.averaged = copy.deepcopy(model).requires_grad_(False)
        self.conditional = conditional(model) and getattr(dataset, "n_classes", None) is not None
        self.objective = Objective(loss, model, generator=self.generator("loss"))
        self.feed = Feed(
            dataset,
            training.batch_size,
            generator=self.generator("data"),
            labels=self.conditional,
        )
        self.lr_schedule = lr_schedule
        self.parameters = [p for p in self._weights() if p.requires_grad]
        self.optimizer = optimizer.build(self.parameters) if self.parameters else None

    @property
    def model(self) -> Model:
        """The model to use: averaged weights where an average is kept, else the trained ones."""
        return self.averaged if self.averaged is not None else self.trained

    def generator(self, purpose: str) -> torch.Generator:
        """A new generator for a purpose, seeded by the run's seed, on the run's device."""
        from ebmkit.composer import stream

        return stream(self.training.seed, purpose, self.device)

    def fit(
        self,
        *,
        out: str | Path | None = None,
        force: bool = False,
        hooks: Hooks | None = None,
    ) -> Run:
        """Train until ``training.steps`` are done, then evaluate.

        ``out`` keeps the run in a directory; without it nothing is written. ``hooks`` are by
        default those of the installed plugins; ``Hooks({})`` is none.

        Raises:
            DivergenceError: the loss, a gradient or a chain is not finite. The step is not taken.
            RunDirectoryError: ``out`` exists and ``force`` was not given, or cannot be written.
            HookError: a hook plugin raised; the message names it.
        """
        from ebmkit.rundir import RunDirectory

        if self.optimizer is None:
            raise UserError("model: it has no parameters to train; choose a model that has some")
        directory = RunDirectory.create(Path(out), self, force=force) if out is not None else None
        hooks = hooks if hooks is not None else Hooks.installed()
        steps = self.training.steps or 0
        run = Run(self, directory.path if directory else None, steps, self.step, [*self.notices])
        error: BaseException | None = None
        try:
            with directory.watching(run, hooks) if directory else contextlib.nullcontext():
                hooks.run_start(run)
                self._loop(run, hooks, directory)
                self._evaluate_for(run, hooks, directory)
        except BaseException as raised:
            error = raised
            raise
        finally:
            hooks.run_end(run, error)
        return run

    def interrupt(self) -> None:
        """Ask a running ``fit`` to end after its present step, with KeyboardInterrupt."""
        self._interrupted = True

    def train_step(self) -> Metrics:
        """One training step: draw, compute, backward, update.

        Raises:
            DivergenceError: the loss, a gradient or a chain is not finite. The step is not taken.
        """
        assert self.optimizer is not None
        training = self.training
        batch = self._noisy(self.feed.draw())
        if self.lr_schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr_schedule(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        if isinstance(self.trained, nn.Module) and not self.trained.training:
            self.trained.train()
        with self._autocast():
            output = self.objective(batch)
        output.loss.backward()
        metrics = dict(output.metrics)
        metrics["loss"] = output.loss.detach()
        limit = training.gradient_clip if training.gradient_clip is not None else math.inf
        metrics["gradient_norm"] = nn.utils.clip_grad_norm_(self.parameters, limit)
        if not torch.isfinite(metrics["gradient_norm"]):
            raise DivergenceError(
                f"the gradient's norm is {metrics['gradient_norm'].item()} at step {self.step}; a "
                "smaller learning rate, or more regularisation of the energy, keeps it finite",
                step=self.step,
            )
        self.optimizer.step()
        self._average()
        self.step += 1
        return metrics

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """``n`` points (n, *event) of the model, by chains of ``steps`` steps (by default
        ``evaluation.chain_steps``).

        Chains start at the loss's persistent chains where it has some, else at normal noise with
        the data's mean and standard deviation. A conditional model is sampled at ``condition``
        (n, ...), by default that of the persistent chains or of data rows. Without a generator the
        draws are those of the run's seed.

        Raises:
            UserError: the pipeline has no sampler.
            DivergenceError: a chain is not finite.
        """
        return self.sample_batch(n, steps=steps, generator=generator, condition=condition).x

    def sample_batch(
        self,
        n: int,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
    ) -> Batch:
        """``sample`` with the condition that each point was drawn at."""
        if self.sampler is None:
            raise UserError("the pipeline has no [sampler] to draw samples with; add one")
        generator = generator if generator is not None else self.generator("samples")
        start = self._starts(n, generator)
        if condition is not None:
            start = Batch(start.x, condition)
        steps = self.evaluation.chain_steps if steps is None else steps
        with evaluating(self.model):
            chain = run_chain(
                self.sampler,
                bind(self.model, start.condition),
                start.x,
                steps=steps,
                generator=generator,
                training_step=max(self.step - 1, 0),
            )
        return Batch(chain.x, start.condition)

    def evaluate(self) -> dict[str, Any]:
        """The numbers that judge the model: exact KL where the data's density is known in 2-D, and
        two-sample numbers between data and samples.

        Raises:
            EvaluationError: a number cannot be computed honestly; the message says why.
        """
        return self._judge().numbers

    def _judge(self) -> Judgement:
        from ebmkit.evaluation import judge

        with evaluating(self.model):
            return judge(self)

    def data(self, n: int, *, generator: torch.Generator) -> Batch:
        """``n`` points of the data to judge against: held-out ones where the dataset keeps some."""
        held_out: Batch | None = getattr(self.dataset, "held_out_batch", None)
        if held_out is not None and len(held_out.x):
            device = generator.device
            rows = torch.randperm(len(held_out.x), generator=generator, device=device)[:n].cpu()
            batch = Batch(*(None if t is None else t[rows].to(device) for t in held_out))
        else:
            batch = self.dataset.draw(n, generator=generator)
        return batch if self.conditional else Batch(batch.x)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step needs: weights, optimizer, the loss's state, generators, data order."""
        modules = {"trained": self.trained, "averaged": self.averaged}
        return {
            "step": self.step,
            "weights": {n: m.state_dict() for n, m in modules.items() if isinstance(m, nn.Module)},
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "loss": self.objective.state,
            "generators": {
                name: generator.get_state()
                for name, generator in (("loss", self.objective.generator), ("data", self.feed.generator))
                if generator is not None
            },
            "order": {"rows": self.feed.order, "position": self.feed.position},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned.

        Raises:
            KeyError, RuntimeError: the state is of another pipeline.
        """
        for module, name in ((self.trained, "trained"), (self.averaged, "averaged")):
            if isinstance(module, nn.Module):
                module.load_state_dict(state["weights"][name])
        if self.optimizer is not None and state["optimizer"] is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.step = self.objective.step = state["step"]
        self.objective.state = state["loss"]
        for name, generator in (("loss", self.objective.generator), ("data", self.feed.generator)):
            if generator is not None:
                generator.set_state(state["generators"][name].cpu())
        order = state["order"]["rows"]
        self.feed.order = None if order is None else order.cpu()
        self.feed.position = state["order"]["position"]

    def _weights(self) -> Iterator[nn.Parameter]:
        return self.trained.parameters() if isinstance(self.trained, nn.Module) else iter(())

    def _loop(self, run: Run, hooks: Hooks, directory: Any) -> None:
        training = self.training
        while self.step < run.total_steps:
            metrics = self.train_step()
            run.step = self.step
            hooks.step_end(run, metrics)
            if self._interrupted:
                raise KeyboardInterrupt
            if directory and _due(self.step, training.checkpoint_every):
                directory.save(run, hooks)
            if _due(self.step, training.evaluate_every) and self.step < run.total_steps:
                self._evaluate_for(run, hooks, directory)

    def _evaluate_for(self, run: Run, hooks: Hooks, directory: Any) -> None:
        judgement = self._judge()
        result = {"step": self.step, **judgement.numbers}
        if directory:
            directory.write_evaluation(result)
        hooks.evaluation_done(run, result, judgement.data, judgement.samples)

    def _noisy(self, batch: Batch) -> Batch:
        if not torch.isfinite(batch.x).all():
            bad = int((~torch.isfinite(batch.x).flatten(1).all(1)).sum())
            raise DataError(
                f"dataset {type(self.dataset).__name__}: {bad} of {len(batch.x)} points of the batch "
                f"at step {self.step} are not finite; mend the data"
            )
        scale = self.training.data_noise
        value = scale(self.step) if is_scheduled(scale) else scale
        if not value:
            return batch
        generator = self.feed.generator
        noise = torch.randn(
            batch.x.shape, generator=generator, device=batch.x.device, dtype=batch.x.dtype
        )
        return batch._replace(x=batch.x + value * noise)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.training.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _average(self) -> None:
        if self.averaged is None or not isinstance(self.trained, nn.Module):
            return
        decay = self.training.ema_decay or 0.0
        with torch.no_grad():
            ours, theirs = list(self.averaged.parameters()), list(self.trained.parameters())
            # A young average leans on the present weights, not on those it began with.
            weight = max(1 - decay, 9 / (self.step + 10))
            torch._foreach_lerp_(ours, theirs, weight)
            for mine, other in zip(self.averaged.buffers(), self.trained.buffers(), strict=True):
                mine.copy_(other)

    def _starts(self, n: int, generator: torch.Generator) -> Batch:
        chains = getattr(self.loss, "chains", None)
        if chains is not None and self.objective.state is not None:
            kept: Batch = chains(self.objective.state)
            rounds = -(-n // len(kept.x))
            order = [
                torch.randperm(len(kept.x), generator=generator, device=generator.device)
                for _ in range(rounds)
            ]
            rows = torch.cat(order)[:n]
            return Batch(*(None if t is None else t[rows] for t in kept))
        data = self.dataset.draw(max(n, 1000), generator=generator)
        x = data.x
        noise = torch.randn(
            (n, *x.shape[1:]), generator=generator, device=generator.device, dtype=x.dtype
        )
        labels = data.condition[:n] if self.conditional and data.condition is not None else None
        return Batch(x.mean(0) + x.std(0) * noise, labels)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
