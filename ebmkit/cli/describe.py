"""ebmkit describe"""

from __future__ import annotations

import click

from ebmkit.cli._complete import part_names
from ebmkit.cli._output import table
from ebmkit.errors import BrokenPluginError
from ebmkit.registry import KINDS, registry
from ebmkit.sources import fault, missing, read, recipe_path


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", shell_complete=part_names)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def command(kind: str, name: str, as_json: bool) -> None:
    """Show a part's fields: types, defaults, bounds, meaning; its docs and its source.

    Everything is read from the part's source; nothing is imported.
    """
    component = registry().find(kind, name)
    if reason := missing(component):
        raise BrokenPluginError(component.broken(f"leads nowhere: {reason}"))
    if kind == "recipe":
        path = recipe_path(component)
        assert path is not None
        click.echo(path.read_text(encoding="utf-8").rstrip())
        return
    source = read(component)
    if source is None:
        why = fault(component) or f"{component.target} is not defined in the module's source"
        raise BrokenPluginError(
            f"{component.whose} cannot be described, for nothing is imported for that: {why}; "
            "ebmkit doctor imports it and says what is wrong"
        )
    if as_json:
        import json

        fields = [field._asdict() for field in source.fields]
        place = {"path": str(source.path), "line": source.line}
        said = component._asdict() | {"doc": source.doc, "fields": fields, "source": place}
        click.echo(json.dumps(said, indent=2))
        return
    click.echo(f"{kind} {component.name}, of {component.distribution} {component.version}\n")
    click.echo(f"{source.doc}\n")
    rows = [[f.name, f.type, f.default or "required", f.bounds, f.doc] for f in source.fields]
    if rows:
        table(["field", "type", "default", "bounds", "meaning"], rows)
    click.echo(f"\n{source.path}:{source.line}")
