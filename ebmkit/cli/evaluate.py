"""ebmkit evaluate"""

from __future__ import annotations

from pathlib import Path

import click

from ebmkit.cli._output import notice, table


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The numbers as JSON.")
@click.option(
    "--annealing",
    type=click.IntRange(min=0),
    metavar="STEPS",
    help="Temperatures by which log Z is bracketed, as evaluation.annealing_steps; 0 for none.",
)
@click.option(
    "--annealing-sampler",
    metavar="VALUE",
    help="An exact sampler that moves annealed chains, as evaluation.annealing_sampler: its name, or "
    "a table as --set takes it.",
)
def command(run: Path, as_json: bool, annealing: int | None, annealing_sampler: str | None) -> None:
    """Judge a run's model: log Z and the data's log likelihood in nats where they are known or
    bracketed, exact KL on 2-D data of known density, and two-sample numbers."""
    from ebmkit.loading import load
    from ebmkit.rundir import RunDirectory, strict_json
    from ebmkit.spec import parse_assignment

    said = {"steps": annealing, "sampler": annealing_sampler}
    pipeline = load(
        run,
        **dict(
            parse_assignment(f"evaluation.annealing_{name}={value}")
            for name, value in said.items()
            if value is not None
        ),
    )
    numbers = {"step": pipeline.step, **pipeline.evaluate()}
    RunDirectory.open(run).write_evaluation(numbers)
    if as_json:
        click.echo(strict_json(numbers))
        return
    refused = numbers.pop("refused", {})
    rows = [[name, f"{v:.6g}" if isinstance(v, float) else str(v)] for name, v in numbers.items()]
    table(["number", "value"], rows)
    for name, reason in refused.items():
        notice(f"no {name}: {reason}")
