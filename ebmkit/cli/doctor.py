"""ebmkit doctor"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, distributions, version

import click

from ebmkit.cli._output import table
from ebmkit.errors import EbmkitError
from ebmkit.registry import HOME, registry, same

PACKAGES = (
    HOME,
    "torch",
    "numpy",
    "attrs",
    "cattrs",
    "pluggy",
    "click",
    "safetensors",
    "matplotlib",
)
STRANGER = "ebmkit"
"""A distribution of this name belongs to another project; plugins must require ebmkit-core."""


@click.command()
def command() -> int:
    """Import every plugin and say what is wrong here; exit 0 where nothing is."""
    import torch

    from ebmkit.hooks import Hooks

    table(["package", "version"], [["python", platform.python_version()], *map(_package, PACKAGES)])
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    devices += ["mps"] * torch.backends.mps.is_available()
    click.echo(f"\ndevices: {', '.join(devices)}")
    for name, value in sorted(os.environ.items()):
        if name.startswith("EBMKIT_"):
            click.echo(f"environment: {name}={value}")
    problems = [f"entry points that cannot be read: {line}" for line in registry().unreadable]
    for component in registry().components:
        if component.status in ("ok", "conflict") and component.kind != "recipe":
            try:
                registry().load(component)
            except EbmkitError as error:
                problems.append(str(error))
    for component in registry().checked():
        unimported = component.kind == "recipe" and component.status == "broken"
        if unimported or component.status in ("conflict", "incompatible"):
            whose = f"{component.kind} {component.name!r} of {component.distribution}"
            problems.append(f"{whose}: {component.status}: {component.reason}")
    problems += _strangers()
    try:
        problems += Hooks.installed().doctor()
    except EbmkitError as error:
        problems.append(str(error))
    click.echo(f"parts: {len(registry().components)}\n")
    for problem in dict.fromkeys(problems):
        click.echo(f"problem: {problem}")
    click.echo("healthy" if not problems else f"{len(dict.fromkeys(problems))} problems")
    return 1 if problems else 0


def _package(name: str) -> list[str]:
    try:
        return [name, version(name)]
    except PackageNotFoundError:
        return [name, "not installed"]


def _strangers() -> list[str]:
    """Plugins that require the distribution of another project instead of ebmkit-core."""
    plugins = {c.distribution for c in registry().components}
    found = []
    for distribution in distributions():
        name = str(distribution.metadata["Name"])
        if not any(same(name, plugin) for plugin in plugins):
            continue
        from packaging.requirements import InvalidRequirement, Requirement

        for text in distribution.requires or ():
            try:
                required = Requirement(text).name
            except InvalidRequirement:
                continue
            if same(required, STRANGER):
                found.append(
                    f"{name} requires {STRANGER!r}, which is another project's distribution; its "
                    f"author should require {HOME!r}"
                )
    return found
