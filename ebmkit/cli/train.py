"""ebmkit train"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import click

from ebmkit.cli._output import notice
from ebmkit.cli._runs import interruptible, kept_in, processes, say_end
from ebmkit.cli._spec import composed, set_option, spec_argument
from ebmkit.cli.resume import go_on


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

    overrides = {"training.seed": seed, "training.device": device}
    with processes() as ranks:
        with ranks.together():
            begun = _begun(out, spec) if ranks.lead else None
            if ranks.lead and out is not None and not force and begun is None:
                clear(out, force=False)  # a directory in the way is said before anything is built
        begun = ranks.from_lead(None if begun is None else str(begun))
        if begun is not None:
            _again(Path(begun))
            return
        pipeline, hooks = composed(spec, assignments, **overrides)
        for line in pipeline.notices:
            notice(line)
        if out is None:
            out = Path(ranks.from_lead(str(next(p for p in _names(spec) if not p.exists()))))
        with interruptible(pipeline), kept_in(out, pipeline):
            run = pipeline.fit(out=out, force=force, hooks=hooks)
        say_end(run, out, known=len(pipeline.notices))


def name_of(spec: str) -> str:
    """What a run of a recipe or a file is called: one name, whatever the file's is."""
    return re.sub(r"[^\w.-]+", "-", Path(spec).stem).strip(".-") or "run"


def _names(spec: str) -> Iterator[Path]:
    """Where runs of a spec are kept by default, one after another."""
    path = Path("runs") / name_of(spec)
    return (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in range(1, 10_000))


def _begun(out: Path | None, spec: str) -> Path | None:
    """The run that this very launch has begun, where torchrun has started its processes anew."""
    from ebmkit.rundir import RunDirectory
    from ebmkit.starting import launch

    if not launch():
        return None
    there = [out] if out is not None else takewhile(Path.exists, _names(spec))
    return next((p for p in there if RunDirectory(p).status().get("launch") == launch()), None)


def _again(run: Path) -> None:
    """Go on with a run after one of its processes was lost."""
    from ebmkit.rundir import RunDirectory

    if RunDirectory(run).status().get("status") == "finished":
        notice(f"{run}: had finished before a process was lost")
        return
    notice(f"{run}: a process was lost; going on from the last checkpoint")
    go_on(run)
