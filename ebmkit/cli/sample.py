"""ebmkit sample"""

from __future__ import annotations

from pathlib import Path

import click

from ebmkit.cli._output import notice, progress_bar


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--count", type=click.IntRange(min=1), required=True, help="Points to draw.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .npy file.")
@click.option(
    "--steps", type=click.IntRange(min=0), help="Steps of each chain; the run's by default."
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the draws; the run's by default.")
def command(run: Path, count: int, out: Path, steps: int | None, seed: int | None) -> None:
    """Draw points from a run's model by its sampler, and write them as an array (count, *event)."""
    import io

    if out.suffix != ".npy":
        raise click.BadParameter(f"{out} must end in .npy", param_hint="--out")
    import numpy as np

    from ebmkit.chains import ChainInterrupt
    from ebmkit.files import write_atomically
    from ebmkit.loading import load
    from ebmkit.seeds import stream

    pipeline = load(run)
    generator = None if seed is None else stream(seed, "samples", pipeline.device)
    interrupt: ChainInterrupt | None = None
    try:
        with progress_bar("sampling") as progress:
            points = pipeline.sample(count, steps=steps, generator=generator, progress=progress)
    except ChainInterrupt as raised:
        interrupt, points = raised, raised.chain.x
    content = io.BytesIO()
    np.save(content, points.cpu().numpy(), allow_pickle=False)
    write_atomically(out, content.getvalue())
    click.echo(f"{out}: {tuple(points.shape)}")
    if interrupt is not None:
        notice(f"interrupted after {interrupt.chain.steps} steps; the points are those of then")
        raise interrupt
