"""A pipeline from the command line's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ebmkit.cli._complete import specs
from ebmkit.cli._output import notice

if TYPE_CHECKING:
    from ebmkit.hooks import Hooks
    from ebmkit.pipeline import Pipeline

spec_argument = click.argument("spec", shell_complete=specs)


def set_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--set path=value``, which may be repeated."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="PATH=VALUE",
        help="Override a key, as sampler.step_size=1e-3; the value is TOML. May be repeated.",
    )(function)


def composed(spec: str, assignments: tuple[str, ...], **extra: Any) -> tuple[Pipeline, Hooks]:
    """The pipeline of a spec with overrides, checked by the hook plugins too."""
    from ebmkit.composer import compose, load_spec
    from ebmkit.errors import SpecError
    from ebmkit.hooks import Hooks
    from ebmkit.spec import parse_assignment

    loaded = load_spec(spec)
    for text in assignments:
        path, value = parse_assignment(text)
        loaded = loaded.with_overrides({path: value})
    loaded = loaded.with_overrides({k: v for k, v in extra.items() if v is not None})
    pipeline = compose(loaded)
    hooks = Hooks.installed(stated=pipeline.hooks)
    for line in hooks.left_out:
        notice(f"left out: {line}")
    if problems := hooks.validate_spec(loaded):
        raise SpecError(problems, loaded.origin)
    return pipeline, hooks
