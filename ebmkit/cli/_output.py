"""Tables: drawn by rich on a terminal, tab-separated when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output."""
    if not sys.stdout.isatty():
        lines = ["\t".join(cell.replace("\n", " ") for cell in row) for row in (columns, *rows)]
        click.echo("\n".join(lines))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def notice(line: str) -> None:
    """Say something that is not the command's result, on standard error."""
    click.echo(f"note: {line}", err=True)
