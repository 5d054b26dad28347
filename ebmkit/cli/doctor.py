"""ebmkit doctor"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from ebmkit.cli._imports import Trial, trials
from ebmkit.cli._output import table
from ebmkit.cli._problems import problems
from ebmkit.cli._surroundings import devices, packages, strangers, variables
from ebmkit.errors import PluginError
from ebmkit.registry import Component, registry
from ebmkit.versioning import PROTOCOL


@click.command()
@click.option("--timing", is_flag=True, help="Also what each plugin module's import takes.")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON document.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the import of a part may take.",
)
def command(timing: bool, as_json: bool, timeout: float) -> int:
    """Import every plugin, each apart, and say what is wrong here; exit 0 where nothing is."""
    parts = list(registry().checked())
    tried = [c for c in parts if c.status in ("ok", "conflict") and c.kind != "recipe"]
    said = []
    try:
        found = dict(trials(tried, timeout))
    except PluginError as error:
        found, said = {}, [str(error)]
    said = list(dict.fromkeys([*said, *_problems(parts, found)]))
    parts = [_judged(component, found.get(component)) for component in parts]
    document: dict[str, Any] = {
        "healthy": not said,
        "packages": packages(),
        "protocol": PROTOCOL,
        "devices": devices(),
        "environment": variables(),
        "parts": [component._asdict() for component in parts],
        "problems": said,
    }
    if timing:
        document["imports"] = _costs(found)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(document)
    return 1 if said else 0


def _judged(component: Component, trial: Trial | None) -> Component:
    """With the status that its import has earned."""
    if trial is None or not trial.error:
        return component
    return component._replace(status="broken", reason=trial.error)


def _problems(parts: list[Component], found: dict[Component, Trial]) -> Iterator[str]:
    for line in registry().unreadable:
        yield f"entry points that cannot be read: {line}"
    for component in parts:
        trial = found.get(component)
        if trial and trial.error:
            yield trial.error
        yield from problems([component])
    yield from strangers({c.distribution for c in parts})
    for component, trial in found.items():
        yield from (f"hook {component.qualified} says: {line}" for line in trial.said)


def _costs(found: dict[Component, Trial]) -> list[dict[str, Any]]:
    """Import cost by module, dearest first. Of a module with several parts, the least: what is over
    that is noise."""
    least: dict[tuple[str, str], float] = {}
    for component, trial in found.items():
        key = component.module, component.distribution
        least[key] = min(trial.seconds, least.get(key, trial.seconds))
    return [
        {"module": module, "distribution": distribution, "milliseconds": round(1000 * seconds, 1)}
        for (module, distribution), seconds in sorted(least.items(), key=lambda item: -item[1])
    ]


def _show(document: dict[str, Any]) -> None:
    table(["package", "version"], list(map(list, document["packages"].items())))
    click.echo(f"\nprotocol: {document['protocol']}")
    click.echo(f"devices: {', '.join(document['devices']) or 'none'}")
    for name, value in document["environment"].items():
        click.echo(f"environment: {name}={value}")
    click.echo()
    columns = ["kind", "name", "distribution", "version", "status", "reason"]
    table(columns, [[part[column] for column in columns] for part in document["parts"]])
    if "imports" in document:
        click.echo("\nwhat imports take beyond torch and ebmkit, each in a process of its own:")
        table(
            ["module", "distribution", "ms"],
            [
                [row["module"], row["distribution"], f"{row['milliseconds']:.1f}"]
                for row in document["imports"]
            ],
        )
    click.echo()
    for problem in document["problems"]:
        click.echo(f"problem: {problem}")
    count = len(document["problems"])
    click.echo("healthy" if not count else f"{count} problem{'s' * (count > 1)}")
