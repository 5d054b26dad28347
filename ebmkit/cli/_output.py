"""What commands say: tables, drawn on a terminal and tab-separated when piped; notices; progress."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ebmkit.errors import legible


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output."""
    rows = [[legible(cell.replace("\n", " ")) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(columns):
        # What a row is called is never cut short, however narrow the terminal is.
        width = max((len(row[0]) for row in rows), default=0) if place == 0 else None
        drawn.add_column(name, min_width=width, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def speaking() -> bool:
    """Whether this process speaks for the command: of several that torchrun started, the first."""
    return os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ


def say(line: str) -> None:
    """Say how the command goes, on standard error."""
    if speaking():
        click.echo(line, err=True)


def notice(line: str) -> None:
    """Say something that is not the command's result, on standard error."""
    say(f"note: {legible(line)}")


@contextmanager
def warnings_as_notices() -> Iterator[None]:
    """Say the warnings of ebmkit's classes as notices; others as Python says them."""
    former = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if category.__module__.startswith("ebmkit"):
            notice(str(message))
        else:
            former(message, category, *rest, **more)

    from ebmkit.provenance import RunWarning
    from ebmkit.versioning import EbmkitDeprecationWarning

    with warnings.catch_warnings():
        # Python hides these outside of scripts, and the user of a command is whom they concern.
        warnings.simplefilter("default", EbmkitDeprecationWarning)
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = show
        yield


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """What is told (steps done, steps in all) and shows them on a terminal; None elsewhere."""
    # A console calls itself a terminal wherever FORCE_COLOR is set, as in notebooks and on CI.
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
