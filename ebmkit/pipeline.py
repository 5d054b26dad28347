"""Train, sample and judge on plain objects; files are the run directory's business."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebmkit.chains import Chain, ChainInterrupt, Progress, run_chain
from ebmkit.chains.conduct import conducted
from ebmkit.chains.starts import starts_among, starts_around
from ebmkit.data import Feed, to_judge, to_validate
from ebmkit.devices import deterministic
from ebmkit.errors import DivergenceError, UserError
from ebmkit.holding import evaluating
from ebmkit.hooks import Hooks, Run
from ebmkit.judging import judge, last_loss
from ebmkit.objectives import Objective, bind, conditional, conduct_of
from ebmkit.optimizers import OptimizerPlan
from ebmkit.protocols import Batch, Dataset, Loss, Metrics, Model, Sampler, Scheduler
from ebmkit.ranks import Ranks
from ebmkit.running import fit
from ebmkit.sections import Chains, Evaluation, Training
from ebmkit.seeds import stream
from ebmkit.trainer import Trainer


class Pipeline:
    """Parts that fit together: what ``ebmkit.compose`` returns."""

    def __init__(
        self,
        *,
        model: Model,
        sampler: Sampler | None,
        loss: Loss,
        dataset: Dataset,
        training: Training,
        evaluation: Evaluation,
        chains: Chains,
        optimizer: OptimizerPlan,
        lr_schedule: Scheduler | None,
        device: torch.device,
        tables: Mapping[str, Any],
        hooks: Mapping[str, object] | None = None,
        notices: tuple[str, ...] = (),
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        """The processes that train the pipeline together."""
        self.sampler = sampler
        self.loss = loss
        self.dataset = dataset
        self.training = training
        self.evaluation = evaluation
        self.chains = chains
        self.device = device
        self.tables = tables
        """The resolved spec: every default, and whose each part is."""
        self.hooks = dict(hooks or {})
        """The hook plugins that the spec states, by ``dist:name``."""
        self.notices = notices
        """Lines that a person should see."""
        self.conditional = conditional(model) and getattr(dataset, "n_classes", None) is not None
        self.trainer = Trainer(
            model=model,
            objective=Objective(
                loss,
                model,
                generator=self._own_generator("loss"),
                compile=training.compile,
                steps=training.steps,
                conduct=conduct_of(chains, runs=training.steps or 1),
                ranks=self.ranks,
            ),
            feed=Feed(
                dataset,
                training.batch_size,
                generator=self._own_generator("data"),
                order_generator=None if self.ranks.size == 1 else self.generator("order"),
                labels=self.conditional,
                rank=self.ranks.rank,
                processes=self.ranks.size,
            ),
            training=training,
            optimizer=optimizer,
            lr_schedule=lr_schedule,
            ranks=self.ranks,
        )
        self.conduct = conduct_of(chains, runs=1)
        """How chains are run that judge the model, and what became of them."""
        self.interrupted: BaseException | None = None
        """What ``fit`` was asked to end with."""
        self.judging = False
        """Whether ``fit`` judges the model, with its state kept before."""
        self.hook_states: dict[str, Mapping[str, Any]] = {}
        """What hook plugins keep from one ``fit`` to the next, by ``dist:name``."""

    @property
    def model(self) -> Model:
        """The model to use: with the weights that ``keep_weights`` kept, or else the present ones."""
        return self.present_model if self.trainer.kept is None else self.trainer.kept

    @property
    def present_model(self) -> Model:
        """The model after the last step: with averaged weights where ``ema_decay`` keeps an average,
        else the trained one, which is ``trainer.model``."""
        averaged = self.trainer.averaged
        return self.trainer.model if averaged is None else averaged

    def keep_weights(self) -> None:
        """Keep the present weights as those to use; training goes on with its own."""
        self.trainer.keep()

    @property
    def step(self) -> int:
        """Training steps done."""
        return self.trainer.done

    def generator(self, purpose: str) -> torch.Generator:
        """A new generator for a purpose, seeded by the run's seed, on the run's device."""
        return stream(self.training.seed, purpose, self.device)

    def fit(
        self,
        *,
        out: str | Path | None = None,
        force: bool = False,
        resume: bool = False,
        hooks: Hooks | None = None,
    ) -> Run:
        """Train until ``training.steps`` are done, then evaluate; the run has what that said.

        ``out`` keeps the run in a directory; without it nothing is written. With ``resume`` the
        directory is that of the run which the pipeline was loaded from, and is gone on with. ``hooks``
        are by default those that the spec states and those of the installed plugins; ``Hooks({})`` is
        none.

        Raises:
            UserError: the model has no parameters to train.
            DivergenceError: the loss, a gradient or a chain is not finite. The step is not taken.
            RunDirectoryError: ``out`` exists and neither ``force`` nor ``resume`` was given, or cannot
                be written.
            HookError: a hook plugin raised; the message names it.
        """
        path = Path(out) if out is not None else None
        return fit(self, path, force=force, resume=resume, hooks=hooks)

    def interrupt(self, error: BaseException | None = None) -> None:
        """Ask a running ``fit`` to end after its present step, with KeyboardInterrupt or ``error``."""
        self.interrupted = error or KeyboardInterrupt()

    def train_step(self) -> Metrics:
        """One training step outside of ``fit``; its metrics.

        Raises:
            DivergenceError: the loss, a gradient or a chain is not finite. The step is not taken.
        """
        return self.trainer.step()

    def sample(
        self,
        n: int,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """``n`` points (n, *event) of the model, by chains of ``steps`` steps (by default
        ``evaluation.chain_steps``).

        Chains start at the loss's persistent chains where it has some, else at normal noise with
        the data's mean and standard deviation. A conditional model is sampled at ``condition``
        (n, ...), from persistent chains at the same one where there are such; by default at that of
        the persistent chains or of data rows. Without a generator the draws are those of the run's
        seed. ``progress`` is told (steps done, steps in all).

        Raises:
            UserError: the pipeline has no sampler.
            DivergenceError: a chain is not finite.
            ChainInterrupt: a KeyboardInterrupt, with what there is so far as ``chain``.
        """
        return self.sample_batch(
            n, steps=steps, generator=generator, condition=condition, progress=progress
        ).x

    def sample_batch(
        self,
        n: int,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Batch:
        """``sample`` with the condition that each point was drawn at."""
        generator = generator if generator is not None else self.generator("samples")
        steps = self.evaluation.chain_steps if steps is None else steps
        start = self._starts(n, generator, None if condition is None else condition.to(self.device))
        chain = self.run_chains(start, steps=steps, generator=generator, progress=progress)
        return Batch(chain.x, start.condition)

    def run_chains(
        self, start: Batch, *, steps: int, generator: torch.Generator, **keywords: Any
    ) -> Chain:
        """A run of the pipeline's sampler on its model from ``start``, as ``[chains]`` says; keywords
        are those of ``run_chain``.

        Raises:
            UserError: the pipeline has no sampler.
        """
        if self.sampler is None:
            raise UserError("the pipeline has no [sampler] to draw samples with; add one")
        self.conduct.starts = lambda n, g, _: self._starts(n, g).x
        try:
            with evaluating(self.model), conducted(self.conduct):
                return run_chain(
                    self.sampler,
                    bind(self.model, start.condition),
                    start.x,
                    steps=steps,
                    generator=generator,
                    training_step=max(self.step - 1, 0),
                    **keywords,
                )
        except ChainInterrupt as interrupt:
            interrupt.condition = start.condition
            raise
        finally:
            self.conduct.starts = None

    def evaluate(self) -> dict[str, Any]:
        """The numbers that judge the model; ``refused`` says why one is missing."""
        return self.judge()[0]

    def data(self, n: int, *, generator: torch.Generator) -> Batch:
        """``n`` points of the data to judge against: held-out ones where the dataset keeps some."""
        return self._labelled(to_judge(self.dataset, n, generator=generator))

    def validation_data(self, *, generator: torch.Generator) -> Batch:
        """The rows that the dataset keeps apart to validate on; of an endless one 1,000 points.

        Raises:
            DataError: the data are finite and keep no rows apart.
        """
        return self._labelled(to_validate(self.dataset, generator=generator))

    def validate(self, loss: Loss) -> float:
        """A loss of the present model on the validation data, with noise and schedules as at the
        run's last step. Points and draws are the same at every call, so that two values differ by the
        models alone.

        Raises:
            DataError: the data are finite and keep no rows apart.
            DivergenceError: the loss is not finite.
        """
        batch = self.validation_data(generator=self.generator("validation data"))
        try:
            return last_loss(self, self.present_model, batch, "validation loss", loss)["loss"]
        except DivergenceError as error:
            raise DivergenceError(
                f"validation after step {self.step}: {error}", step=self.step
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """All that the next training step needs."""
        return self.trainer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned.

        Raises:
            KeyError, RuntimeError: the state is of another pipeline.
        """
        self.trainer.load_state_dict(state)
        self.hook_states = dict(state.get("hooks", {}))

    def judge(self) -> tuple[dict[str, Any], Batch, Batch | None]:
        """The numbers of ``evaluate``, and the data and samples that they compare."""
        with deterministic(self.training.deterministic):
            return judge(self)

    def _own_generator(self, purpose: str) -> torch.Generator:
        """One for what each process draws for itself."""
        return stream(self.training.seed, purpose, self.device, rank=self.ranks.rank)

    def _labelled(self, batch: Batch) -> Batch:
        return batch if self.conditional else Batch(batch.x)

    def _starts(self, n: int, generator: torch.Generator, condition: Tensor | None = None) -> Batch:
        if (chains := self.trainer.objective.chains) is not None:
            return starts_among(chains, n, condition, generator=generator)
        data = self._labelled(self.dataset.draw(max(n, 1000), generator=generator))
        discrete = bool(getattr(self.sampler, "discrete", False))
        start = starts_around(data, n, generator=generator, discrete=discrete)
        return start if condition is None else start._replace(condition=condition)
