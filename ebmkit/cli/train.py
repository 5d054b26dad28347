"""ebmkit train"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmkit.cli._output import notice
from ebmkit.cli._spec import composed, set_option, spec_argument

if TYPE_CHECKING:
    from ebmkit.pipeline import Pipeline


@click.command()
@spec_argument
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; runs/NAME by default.")
@set_option
@click.option("--seed", type=click.IntRange(min=0), help="Same as --set training.seed=N.")
@click.option("--device", help="Same as --set training.device=D.")
@click.option("--force", is_flag=True, help="Replace the run that --out holds.")
def command(
    spec: str,
    out: Path | None,
    assignments: tuple[str, ...],
    seed: int | None,
    device: str | None,
    force: bool,
) -> None:
    """Train a pipeline, a recipe's name or a TOML file, and keep the run in a directory.

    The directory gets spec.toml (everything resolved), metrics.jsonl, checkpoints/,
    evaluation.json, status.json, and the pictures samples.png, energy.png and training.png.
    """
    from ebmkit.rundir import clear

    if out is not None and not force:
        clear(out, force=False)  # a directory in the way is said before anything is built
    pipeline, hooks = composed(
        spec, assignments, **{"training.seed": seed, "training.device": device}
    )
    for line in pipeline.notices:
        notice(line)
    out = out if out is not None else _free(Path("runs") / Path(spec).stem.replace(":", "-"))
    with _interruptible(pipeline):
        try:
            run = pipeline.fit(out=out, force=force, hooks=hooks)
        except KeyboardInterrupt:
            click.echo(f"interrupted after step {pipeline.step}; kept in {out}", err=True)
            raise
        except Exception:
            if (out / "status.json").is_file():
                click.echo(f"the run died after step {pipeline.step}; kept in {out}", err=True)
            raise
    for line in run.notices[len(pipeline.notices) :]:
        notice(line)
    if run.stopped:
        click.echo(f"stopped after step {run.step}: {run.stopped}")
    _say_result(out)


@contextmanager
def _interruptible(pipeline: Pipeline) -> Iterator[None]:
    """The first SIGINT ends training after its present step, the second at once."""
    former = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: Any) -> None:  # noqa: ARG001
        signal.signal(signal.SIGINT, former)
        pipeline.interrupt()

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _free(path: Path) -> Path:
    candidates = (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in range(1, 10_000))
    return next(p for p in candidates if not p.exists())


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
