"""ebmkit sample"""

from __future__ import annotations

from pathlib import Path

import click

from ebmkit.cli._output import notice, progress_bar
from ebmkit.cli._points import SUFFIXES


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=1), required=True, help="Points to draw.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="A .npy file, or a .csv file."
)
@click.option(
    "--condition",
    metavar="VALUE",
    help="Class label to draw every point at, of a conditional model; by default labels of the data.",
)
@click.option(
    "--rescaled",
    is_flag=True,
    help="Write points as the model sees them, and not in the units of the data's file.",
)
@click.option(
    "--steps", type=click.IntRange(min=0), help="Steps of each chain; the run's by default."
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws; the run's by default.")
def command(
    run: Path,
    count: int,
    out: Path,
    condition: str | None,
    rescaled: bool,
    steps: int | None,
    seed: int | None,
) -> None:
    """Draw points from a run's model by its sampler, and write them in the units of the data's file:
    to a .npy file as an array (count, *event), or to a .csv file as a table under the columns' names.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(
            f"{out}: expected a file that ends in {' or '.join(SUFFIXES)}, got {out.suffix!r}; name "
            "it so",
            param_hint="--out",
        )
    from ebmkit.chains import ChainInterrupt
    from ebmkit.cli._points import as_csv, as_npy, stated_condition, to_write
    from ebmkit.files import write_atomically
    from ebmkit.loading import load
    from ebmkit.protocols import Batch
    from ebmkit.seeds import stream

    pipeline = load(run)
    at = None if condition is None else stated_condition(pipeline, run, condition, count)
    if rescaled and not hasattr(pipeline.dataset, "restored"):
        kind = type(pipeline.dataset).__name__
        notice(f"--rescaled changes nothing: data set {kind} has no units but those of the model")
    generator = None if seed is None else stream(seed, "samples", pipeline.device)
    interrupt: ChainInterrupt | None = None
    try:
        with progress_bar("sampling") as progress:
            batch = pipeline.sample_batch(
                count, steps=steps, generator=generator, condition=at, progress=progress
            )
    except ChainInterrupt as raised:
        interrupt, batch = raised, Batch(raised.chain.x, raised.condition)
    points = to_write(pipeline.dataset, batch, rescaled=rescaled)
    content, shape = (as_csv if out.suffix.lower() == ".csv" else as_npy)(points)
    write_atomically(out, content)
    click.echo(f"{out}: {shape}")
    if interrupt is not None:
        notice(f"interrupted after {interrupt.chain.steps} steps; the points are those of then")
        raise interrupt
