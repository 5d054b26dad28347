"""What commands that train have in common: signals, what is said of a run that dies, its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmkit.cli._output import notice, say, speaking

if TYPE_CHECKING:
    from ebmkit.hooks import Run
    from ebmkit.pipeline import Pipeline
    from ebmkit.ranks import Ranks


@contextmanager
def processes() -> Iterator[Ranks]:
    """The processes that torchrun started for this command, where it did."""
    from ebmkit.ranks import Ranks
    from ebmkit.starting import started

    with started():
        yield Ranks.present()


@contextmanager
def interruptible(pipeline: Pipeline) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends training after its present step, the second at once; while
    the model is judged, and all there is to keep is kept, the first ends it."""
    from ebmkit.errors import Terminated

    def ask(number: int, frame: Any) -> None:  # noqa: ARG001
        error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if pipeline.interrupted or pipeline.judging:
            raise error
        pipeline.interrupt(error)
        said = "ending after this step; again to end at once"
        say(f"{signal.Signals(number).name}: {said}")

    former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def kept_in(out: Path, pipeline: Pipeline) -> Iterator[None]:
    """Say of a run that ends before its time where it is kept, and how it is gone on with."""
    from ebmkit.errors import DivergenceError, UserError

    def tell(how: str, error: BaseException) -> None:
        from ebmkit.rundir import RunDirectory, step_of

        for note in getattr(error, "__notes__", ()):
            notice(note)
        kept = RunDirectory(out).checkpoints()
        last = f"; its last checkpoint is of step {step_of(kept[-1])}" if kept else ""
        say(f"{how} after step {pipeline.step}; kept in {out}{last}")
        again = " --set training.on_divergence=rollback" * isinstance(error, DivergenceError)
        say(f"to go on: ebmkit resume {out}{again}")

    try:
        yield
    except KeyboardInterrupt as error:
        if (out / "spec.toml").is_file():
            tell("interrupted", error)
        raise
    except Exception as error:
        started = (out / "status.json").is_file()
        if started and not (isinstance(error, UserError) and pipeline.step == 0):
            tell("the run died", error)
        raise


def say_end(run: Run, out: Path, *, known: int) -> None:
    """Say what a person should see of a run that has ended; ``known`` notices were said before."""
    if not speaking():
        return
    for line in run.notices[known:]:
        notice(line)
    if run.stopped:
        click.echo(f"stopped after step {run.step}: {run.stopped}")
    _say_result(out)


def _say_result(out: Path) -> None:
    import json

    result = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    if result.get("kl_nats") is not None:
        error = _plus_minus(result["kl_error"])
        click.echo(f"KL(data‖model) = {result['kl_nats']:.4f}{error} nats, by quadrature")
    elif result.get("auroc") is not None:
        click.echo(f"energy AUROC between samples and data = {result['auroc']:.3f} (0.5 is best)")
    if result.get("test_loss") is not None:
        click.echo(f"test loss = {result['test_loss']:.4f}{_plus_minus(result['test_loss_error'])}")
    for name in ("auroc", "test_loss"):
        if reason := result.get("refused", {}).get(name):
            notice(f"no {name}: {reason}")
    click.echo(f"{out}")


def _plus_minus(error: float | None) -> str:
    return "" if error is None else f" ± {error:.1g}"
