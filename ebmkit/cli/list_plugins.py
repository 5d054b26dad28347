"""ebmkit list-plugins"""

from __future__ import annotations

import click

from ebmkit.cli._output import notice, table
from ebmkit.cli._problems import problems
from ebmkit.registry import KINDS, registry
from ebmkit.sources import summary


@click.command()
@click.option("--kind", type=click.Choice(KINDS), help="Only parts of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Everything about each part, as JSON.")
@click.option("--long", "in_full", is_flag=True, help="Also targets, and reasons of a status.")
def command(kind: str | None, as_json: bool, in_full: bool) -> None:
    """Show every part there is, and whose it is. Nothing is imported."""
    found = [c for c in registry().checked() if kind in (None, c.kind)]
    if as_json:
        import json

        click.echo(json.dumps([c._asdict() | {"summary": summary(c)} for c in found], indent=2))
        return
    columns = ["kind", "name", "distribution", "version", "status", "summary"]
    rows = [[c.kind, c.name, c.distribution, c.version, c.status, summary(c)] for c in found]
    if in_full:
        columns += ["target", "reason"]
        rows = [[*row, c.target, c.reason] for row, c in zip(rows, found, strict=True)]
    table(columns, rows)
    for line in () if in_full else dict.fromkeys(problems(found)):
        notice(line)
    for line in registry().unreadable:
        notice(f"a distribution's entry points cannot be read: {line}")
