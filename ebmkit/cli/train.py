"""ebmkit train"""

from __future__ import annotations

import re
from pathlib import Path

import click

from ebmkit.cli._output import notice
from ebmkit.cli._runs import interruptible, kept_in, say_end
from ebmkit.cli._spec import composed, set_option, spec_argument


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
    out = out if out is not None else _free(Path("runs") / name_of(spec))
    with interruptible(pipeline), kept_in(out, pipeline):
        run = pipeline.fit(out=out, force=force, hooks=hooks)
    say_end(run, out, known=len(pipeline.notices))


def name_of(spec: str) -> str:
    """What a run of a recipe or a file is called: one name, whatever the file's is."""
    return re.sub(r"[^\w.-]+", "-", Path(spec).stem).strip(".-") or "run"


def _free(path: Path) -> Path:
    candidates = (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in range(1, 10_000))
    return next(p for p in candidates if not p.exists())
