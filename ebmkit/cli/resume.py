"""ebmkit resume"""

from __future__ import annotations

from pathlib import Path

import click

from ebmkit.cli._output import notice
from ebmkit.cli._runs import interruptible, kept_in, processes, say_end
from ebmkit.cli._spec import set_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Go on to so many steps in all, beyond what the run was stated for.",
)
@set_option
@click.option("--device", help="Same as --set training.device=D.")
@click.option(
    "--accept-versions",
    is_flag=True,
    help="Go on with parts of other versions than recorded, which may be other parts.",
)
def command(
    run: Path,
    steps: int | None,
    assignments: tuple[str, ...],
    device: str | None,
    accept_versions: bool,
) -> None:
    """Train a run further from its last checkpoint: one that was interrupted or died, or, with --steps,
    one that has finished.

    It goes on exactly where it was: the weights are those of a run that was never interrupted, unless
    --set changes what it trains by.
    """
    with processes():
        go_on(run, steps, assignments, device, accept_versions)


def go_on(
    run: Path,
    steps: int | None = None,
    assignments: tuple[str, ...] = (),
    device: str | None = None,
    accept_versions: bool = False,
) -> None:
    """What the command does, in each of its processes."""
    from ebmkit.hooks import Hooks
    from ebmkit.loading import reopen
    from ebmkit.seeds import set_process_generators
    from ebmkit.shares import own_process
    from ebmkit.spec import parse_assignment

    overrides = dict(map(parse_assignment, assignments))
    if device is not None:
        overrides["training.device"] = device
    pipeline, kept = reopen(run, steps=steps, accept_versions=accept_versions, **overrides)
    for line in pipeline.notices:
        notice(line)
    hooks = Hooks.installed(stated=pipeline.hooks)
    for line in hooks.left_out:
        notice(f"left out: {line}")
    set_process_generators(own_process(kept, pipeline.ranks.rank))
    known = len(pipeline.notices)
    with interruptible(pipeline), kept_in(run, pipeline):
        ended = pipeline.fit(out=run, resume=True, hooks=hooks)
    say_end(ended, run, known=known)
