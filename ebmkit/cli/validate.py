"""ebmkit validate"""

from __future__ import annotations

import click

from ebmkit.cli._output import notice
from ebmkit.cli._spec import composed, set_option, spec_argument


@click.command()
@spec_argument
@set_option
def command(spec: str, assignments: tuple[str, ...]) -> None:
    """Check a pipeline, a recipe's name or a TOML file, without training it."""
    pipeline, _ = composed(spec, assignments)
    for line in pipeline.notices:
        notice(line)
    click.echo(f"{spec}: fine")
