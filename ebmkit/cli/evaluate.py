"""ebmkit evaluate"""

from __future__ import annotations

from pathlib import Path

import click

from ebmkit.cli._output import notice, table


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The numbers as JSON.")
def command(run: Path, as_json: bool) -> None:
    """Judge a run's model: exact KL in nats on 2-D data of known density, and two-sample numbers."""
    from ebmkit.loading import load
    from ebmkit.rundir import RunDirectory

    pipeline = load(run)
    numbers = {"step": pipeline.step, **pipeline.evaluate()}
    RunDirectory.open(run).write_evaluation(numbers)
    if as_json:
        import json

        click.echo(json.dumps(numbers, indent=2))
        return
    refused = numbers.pop("refused", {})
    rows = [[name, f"{v:.6g}" if isinstance(v, float) else str(v)] for name, v in numbers.items()]
    table(["number", "value"], rows)
    for name, reason in refused.items():
        notice(f"no {name}: {reason}")
