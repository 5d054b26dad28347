"""A run: training steps, hooks at their times, and the directory that keeps it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ebmkit.errors import (
    DivergenceError,
    EbmkitError,
    RunDirectoryError,
    Terminated,
    out_of_memory,
)
from ebmkit.following import Following
from ebmkit.holding import evaluating
from ebmkit.hooks import Hooks, Run
from ebmkit.rollback import Rollbacks
from ebmkit.rundir import RunDirectory
from ebmkit.shares import summed

if TYPE_CHECKING:
    from ebmkit.pipeline import Pipeline

PARTED = 1000.0
"""Nats between samples and data beyond which no model of any data is learned."""


def fit(
    pipeline: Pipeline, out: Path | None, *, force: bool, resume: bool, hooks: Hooks | None
) -> Run:
    """What ``Pipeline.fit`` does."""
    ranks = pipeline.ranks
    pipeline.trainer.check_trainable()
    directory: RunDirectory | None = None
    with ranks.together():
        if not ranks.lead:
            hooks = Hooks({})
        hooks = hooks if hooks is not None else Hooks.installed(stated=pipeline.hooks)
        if out is not None and not ranks.lead:
            directory = Following(out)
        elif out is not None and resume:
            directory = RunDirectory.reopen(out, pipeline)
        elif out is not None:
            directory = RunDirectory.create(out, pipeline, force=force)
    steps = pipeline.training.steps or 0
    notices = [*pipeline.notices, *hooks.left_out]
    run = Run(pipeline, directory.path if directory else None, steps, pipeline.step, notices)
    pipeline.interrupted = None
    error: BaseException | None = None
    try:
        with directory.watching(run, hooks) if directory else contextlib.nullcontext():
            with ranks.together():
                hooks.run_start(run)
                hooks.load_state(run, pipeline.hook_states)
            _train(run, hooks, directory, resumed=directory is not None and resume)
            run.notices += _lost(pipeline)
            with ranks.together():
                pipeline.hook_states = hooks.save_state(run)
                if directory:
                    directory.save(run, hooks)  # judging takes its time, and may be cut short
            pipeline.judging = True
            _evaluate(run, hooks, directory)
            run.notices += _parted(run)
    except BaseException as raised:
        error = raised
        raise
    finally:
        pipeline.judging = False
        try:
            hooks.run_end(run, error)
        except Exception as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the first error is what its reader has to mend
        finally:
            if directory:
                directory.close()
    return run


def _train(run: Run, hooks: Hooks, directory: RunDirectory | None, *, resumed: bool) -> None:
    pipeline = run.pipeline
    training = pipeline.training
    every = training.evaluate_every
    rollbacks = Rollbacks(run, hooks, directory)
    while not run.ending:
        try:
            with _first_step_from(directory) if resumed else contextlib.nullcontext():
                metrics = pipeline.trainer.step()
            resumed = False
            run.step = pipeline.step
            with pipeline.ranks.together(lambda: _asked(run)) as asked:
                hooks.step_end(run, {**metrics, **rollbacks.metrics()})
            asked_to_end = _obey(run, *asked)
        except DivergenceError as error:
            rollbacks.after(error)
            continue
        if asked_to_end is not None:
            pipeline.hook_states = hooks.save_state(run)
            raise pipeline.ranks.everywhere(asked_to_end)
        if run.step % training.checkpoint_every == 0:
            rollbacks.keep()
        if every is not None and run.step % every == 0 and not run.ending:
            _evaluate(run, hooks, directory)


@contextlib.contextmanager
def _first_step_from(directory: RunDirectory | None) -> Iterator[None]:
    """States of losses and optimizers can be looked at only by taking a step with them."""
    try:
        yield
    except EbmkitError:
        raise
    except Exception as error:
        if directory is None or out_of_memory(error):
            raise
        raise RunDirectoryError(
            f"{directory.path}: no step can be taken from its last checkpoint, which may be altered or "
            f"of other parts: {type(error).__name__}: {error}"
        ) from error


def _asked(run: Run) -> list[bool]:
    """What a hook or a signal asks for in this process, and so of all: to end, to end because the
    process was told to, to stop after this step, to keep the weights."""
    asked, kept = run.pipeline.interrupted, run.pipeline.trainer.kept_step
    return [asked is not None, isinstance(asked, Terminated), bool(run.stopped), kept == run.step]


def _obey(
    run: Run, ending: bool, terminated: bool, stopped: bool, kept: bool
) -> BaseException | None:
    """Do what was asked for, and tell what the run is to end with. A signal that has come since is for
    the next step: other processes do not know of it."""
    pipeline = run.pipeline
    if stopped:
        run.stopped = pipeline.ranks.from_lead(run.stopped)
    if kept and pipeline.trainer.kept_step != run.step:
        pipeline.keep_weights()
    if not ending:
        return None
    return pipeline.interrupted or (Terminated() if terminated else KeyboardInterrupt())


def _evaluate(run: Run, hooks: Hooks, directory: RunDirectory | None) -> None:
    ranks = run.pipeline.ranks
    with ranks.together():
        if not ranks.lead:
            return
        numbers, data, samples = run.pipeline.judge()
        run.evaluation = result = {"step": run.step, **numbers}
        if directory:
            directory.write_evaluation(result)
        # A picture of the model must not change what BatchNorm has seen.
        with evaluating(run.pipeline.model):
            hooks.evaluation_done(run, result, data, samples)


def _lost(pipeline: Pipeline) -> list[str]:
    """What became of chains that diverged, where any did."""
    said = {
        "chains_restarted": "turned non-finite and were restarted",
        "chains_frozen": "were held still at their last finite points",
    }
    counts = summed(pipeline.ranks.gathered(pipeline.trainer.objective.conduct.counts()))
    return [f"{counts[name]} chains {what}" for name, what in said.items() if counts.get(name)]


def _parted(run: Run) -> list[str]:
    """That a run which came to its end has learned nothing, where its last judgement shows it."""
    gap = (run.evaluation or {}).get("energy_gap")
    if gap is None or abs(gap) <= PARTED:
        return []
    return [
        f"the energies of samples and data are {gap:.3g} nats apart: the chains have not kept up with "
        "the model, which is worthless then; look at energy_gap in the metrics, lower the learning "
        "rate, and state training.energy_gap_limit (20, say), so that a run ends where this begins"
    ]
