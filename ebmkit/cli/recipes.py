"""ebmkit recipes"""

from __future__ import annotations

import click

from ebmkit.cli._complete import recipe_names
from ebmkit.cli._output import table
from ebmkit.registry import registry
from ebmkit.sources import recipe_path, summary


@click.command()
@click.argument("name", required=False, shell_complete=recipe_names)
def command(name: str | None) -> None:
    """Show the recipes, or print one: a pipeline file to copy and change."""
    if name is None:
        found = registry().of_kind("recipe")
        table(
            ["name", "distribution", "summary"],
            [[c.name, c.distribution, summary(c)] for c in found],
        )
        return
    from ebmkit.errors import BrokenPluginError

    component = registry().find("recipe", name)
    path = recipe_path(component)
    if path is None:
        raise BrokenPluginError(
            f"recipe {name!r} of {component.distribution}: there is no file for {component.target}"
        )
    click.echo(path.read_text(encoding="utf-8").rstrip())
