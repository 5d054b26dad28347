"""Shell completion of parts' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def part_names(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:  # noqa: ARG001
    """Names of the kind that was typed before."""
    from ebmkit.registry import GROUPS, registry

    kind = context.params.get("kind")
    names = registry().names(kind) if kind in GROUPS else []
    return [name for name in names if name.startswith(begun)]


def recipe_names(context: Any, parameter: Any, begun: str) -> list[str]:  # noqa: ARG001
    from ebmkit.registry import registry

    return [name for name in registry().names("recipe") if name.startswith(begun)]


def specs(context: Any, parameter: Any, begun: str) -> list[CompletionItem]:
    """Recipes by name, and files."""
    from click.shell_completion import CompletionItem

    found = [CompletionItem(name) for name in recipe_names(context, parameter, begun)]
    return [*found, CompletionItem(begun, type="file")]
