"""ebmkit report"""

from __future__ import annotations

from pathlib import Path

import click

from ebmkit.cli._output import notice

PAGE = "report.html"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help=f"An .html file; {PAGE} in the run by default."
)
def command(run: Path, out: Path | None) -> None:
    """Write a run as one HTML page that needs no other file, to mail or to print.

    It has how the run ended, evaluation, diagnosis, curves, pictures, parts with their versions,
    checkpoints and the whole pipeline. Of a run that died it has what there is.
    """
    out = run / PAGE if out is None else out
    if out.suffix not in (".html", ".htm"):
        raise click.BadParameter(f"{out} must end in .html", param_hint="--out")
    from ebmkit.files import write_atomically
    from ebmkit.hooks import Hooks
    from ebmkit.reports import written

    hooks = Hooks.installed()
    for line in hooks.left_out:
        notice(f"left out: {line}")
    page, lacks = written(run, hooks)
    for line in lacks:
        notice(line)
    write_atomically(out, page.encode())
    click.echo(f"{out}")
