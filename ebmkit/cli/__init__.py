"""The command line: one file a command, each imported when it is used."""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS = {
    "check": "check",
    "describe": "describe",
    "diagnose": "diagnose",
    "doctor": "doctor",
    "evaluate": "evaluate",
    "list-plugins": "list_plugins",
    "new-plugin": "new_plugin",
    "recipes": "recipes",
    "report": "report",
    "resume": "resume",
    "sample": "sample",
    "train": "train",
    "validate": "validate",
}


def _block(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> None:  # noqa: ARG001
    if not value:
        return
    from ebmkit.registry import block, registry, same

    found = registry().components
    for text in value:
        distribution, _, name = text.partition(":")
        owned = [c for c in found if same(c.distribution, distribution)]
        if not owned or (name and not any(c.name == name for c in owned)):
            owners = ", ".join(sorted({c.distribution for c in found}))
            raise click.BadParameter(
                f"{text!r} names no installed plugin (distributions: {owners})"
            )
    block(value)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ebmkit.cli.{COMMANDS[cmd_name]}")
        command: click.Command = module.command
        command.context_settings.setdefault("help_option_names", ["-h", "--help"])
        if not any(p.name == "no_plugin" for p in command.params):
            command.params.append(_no_plugin())
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            from ebmkit.errors import did_you_mean

            known = ", ".join(COMMANDS)
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)} (known: {known})")
        return super().resolve_command(ctx, args)


def _no_plugin() -> click.Option:
    return click.Option(
        ["--no-plugin"],
        multiple=True,
        metavar="DIST[:NAME]",
        expose_value=False,
        is_eager=True,
        callback=_block,
        help="Switch a plugin off before anything of it is imported; may be repeated.",
    )


def _version(context: click.Context, parameter: click.Parameter, value: Any) -> None:  # noqa: ARG001
    if value:
        from importlib.metadata import version

        click.echo(f"ebmkit {version('ebmkit-core')}")
        context.exit()


@click.command(
    cls=_Commands,
    params=[
        _no_plugin(),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_version,
            help="Show the version and exit.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def ebmkit() -> None:
    """Train, sample and judge energy-based models from parts that are found by name.

    \b
    ebmkit train two-moons            train a recipe
    ebmkit list-plugins               every part there is, and whose it is
    ebmkit describe sampler langevin  a part's fields
    """
