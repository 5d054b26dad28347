"""What becomes of a training run that diverges: it ends, or goes back to when it was well."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ebmkit.errors import DivergenceError
from ebmkit.seeds import stream
from ebmkit.shares import ORDER

if TYPE_CHECKING:
    from ebmkit.hooks import Hooks, Run


class Keeper(Protocol):
    """Where states of a run are kept."""

    def save(self, run: Run, hooks: Hooks) -> Any: ...

    def newest(
        self, device: Any = "cpu", *, before: int | None = None
    ) -> tuple[Any, Any, list[str]] | None: ...

    def forget_after(self, step: int) -> None: ...


class Memory:
    """Keeps the last states of a run that has no directory."""

    def __init__(self, keep: int) -> None:
        self._states: deque[dict[str, Any]] = deque(maxlen=keep)

    def save(self, run: Run, hooks: Hooks) -> None:
        if not self._states.maxlen:
            return
        state = {**run.pipeline.state_dict(), "hooks": hooks.save_state(run)}
        self._states.append(pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), state))

    def newest(
        self,
        device: Any = "cpu",
        *,
        before: int | None = None,
    ) -> tuple[Any, Any, list[str]] | None:
        if not self._states:
            return None
        fit = [s for s in self._states if before is None or s["step"] < before]
        state = fit[-1] if fit else self._states[0]
        # Training goes on in what it is given.
        return None, pytree.tree_map_only(Tensor, lambda t: t.to(device, copy=True), state), []

    def forget_after(self, step: int) -> None:
        while self._states and self._states[-1]["step"] > step:
            self._states.pop()


class Rollbacks:
    """The policy ``training.on_divergence = "rollback"``.

    A step that diverges is not taken. The run goes back to its last checkpoint, multiplies the
    learning rate by ``rollback_factor`` and draws from new streams of its seed. Where it diverges again
    before it has made another checkpoint, that one may be at fault, and it goes back by one more.
    After ``max_rollbacks`` the run ends as it would have at once.
    """

    def __init__(self, run: Run, hooks: Hooks, directory: Keeper | None) -> None:
        self._run = run
        self._hooks = hooks
        self._training = run.pipeline.training
        self._keeper = directory or Memory(self._training.keep_checkpoints if self.on else 0)
        if self.on and self._keeper.newest() is None:
            self.keep()

    @property
    def on(self) -> bool:
        return self._training.on_divergence == "rollback"

    def keep(self) -> None:
        """Keep the present state, where the run is kept or may have to go back."""
        with self._run.pipeline.ranks.together():
            self._keeper.save(self._run, self._hooks)

    def after(self, error: DivergenceError) -> None:
        """Go back after a divergence.

        Raises:
            DivergenceError: the policy is to stop, or the run has gone back often enough.
        """
        run, pipeline = self._run, self._run.pipeline
        trainer = pipeline.trainer
        if not self.on:
            raise error
        count = trainer.rollbacks
        if count >= self._training.max_rollbacks:
            raise pipeline.ranks.everywhere(
                DivergenceError(
                    f"{error}; given up after {count} rollbacks (training.max_rollbacks)",
                    step=error.step,
                    chains=error.chains,
                )
            ) from error
        with pipeline.ranks.together():
            found = self._keeper.newest(pipeline.device)
            assert found is not None
            if count and found[1]["step"] <= trainer.went_back_to:
                found = self._keeper.newest(pipeline.device, before=trainer.went_back_to) or found
            pipeline.load_state_dict(found[1])
        trainer.rollbacks, trainer.went_back_to = count + 1, pipeline.step
        for purpose, generator in trainer.generators():
            seed, rank = self._training.seed, 0 if purpose == ORDER else pipeline.ranks.rank
            fresh = stream(
                seed, f"{purpose} after rollback {count + 1}", generator.device, rank=rank
            )
            generator.set_state(fresh.get_state())
        run.step = pipeline.step
        self._keeper.forget_after(run.step)
        self._hooks.load_state(run, pipeline.hook_states)
        run.notices.append(
            f"diverged: {error}; rollback {count + 1} of {self._training.max_rollbacks}: back to step "
            f"{run.step}, with the learning rate at {trainer.lr_factor:g} of what is stated"
        )

    def metrics(self) -> Mapping[str, Tensor]:
        """What a step's metrics say of rollbacks."""
        count = self._run.pipeline.trainer.rollbacks
        return {"rollbacks": torch.tensor(float(count))} if self.on else {}
