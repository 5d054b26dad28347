"""ebmkit new-plugin"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from ebmkit.scaffold import LICENCES, SUMMARIES, Scaffold


@click.command()
@click.argument("name")
@click.option("--kind", type=click.Choice([*SUMMARIES]), help="What the package is to offer.")
@click.option("--author", default="", help="Whose it is, for its metadata and licence.")
@click.option("--email", default="", help="An address, for its metadata.")
@click.option(
    "--license",
    "licence",
    type=click.Choice(LICENCES, case_sensitive=False),
    default="MIT",
    show_default=True,
    help="The licence that others may use it by.",
)
@click.option("--description", default="", help="What it is, in one line.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where to; ./NAME by default.")
def command(
    name: str,
    kind: str | None,
    author: str,
    email: str,
    licence: str,
    description: str,
    directory: Path | None,
) -> None:
    """Write a package that offers a new part: one that works, to put your own idea into.

    NAME is that of the distribution; ebmkit-NAME makes a part called NAME in pipelines.
    """
    if kind is None:
        kinds = click.Choice([*SUMMARIES])
        if not sys.stdin.isatty():
            raise click.UsageError(f"state --kind: one of {', '.join(SUMMARIES)}")
        kind = str(click.prompt("kind", type=kinds))
    scaffold = Scaffold(name, kind, author, email, licence, description)
    place = directory or Path(name)
    files = scaffold.write(place)
    click.echo(f"{place}: {len(files)} files")
    click.echo(
        f"{kind} {scaffold.component!r} is the class {scaffold.class_name} in "
        f"{place / 'src' / scaffold.package / '__init__.py'}"
    )
    click.echo(f"next:\n  cd {shlex.quote(str(place))}")
    click.echo('  pip install -e ".[test]"')
    click.echo(f"  ebmkit list-plugins --kind {kind}")
    click.echo(f"  ebmkit check {name}")
    click.echo("  ebmkit train pipeline.toml")
