"""Writes parts.md, the catalogue of built-in parts, from their sources.

    python docs/make_parts.py

Nothing of a part is imported: names come from the entry points, the rest from the source, as in
``ebmkit describe``.
"""

from __future__ import annotations

from pathlib import Path

from prose import markdown

from ebmkit.registry import HOME, KINDS, Component, same, scan
from ebmkit.sources import Field, read, summary

PAGE = Path(__file__).with_name("parts.md")
TITLES = {
    "model": "Models",
    "sampler": "Samplers",
    "loss": "Losses",
    "scheduler": "Schedulers",
    "dataset": "Datasets",
    "hook": "Hooks",
    "recipe": "Recipes",
}
HEAD = """\
# Built-in parts

Every part that comes with `ebmkit-core`, by kind. The page is written from the sources by
`python docs/make_parts.py`; `ebmkit describe KIND NAME` says the same of any installed part, and
`ebmkit list-plugins` names them all. What the data decide (`event_shape`, `n_classes`) is filled in
by the composer where a pipeline leaves it out.
"""


def render() -> str:
    """The whole page."""
    found = [c for c in scan().components if same(c.distribution, HOME)]
    blocks = [HEAD]
    for kind in KINDS:
        blocks.append(f"## {TITLES[kind]}\n")
        by_target: dict[str, list[Component]] = {}
        for component in found:
            if component.kind == kind:
                by_target.setdefault(component.target, []).append(component)
        blocks += [_part(components) for components in by_target.values()]
    return "\n".join(blocks)


def _part(components: list[Component]) -> str:
    # An alias is a second entry point on the same target; the longest name says most.
    first, *aliases = sorted(components, key=lambda c: -len(c.name))
    also = f", also `{'`, `'.join(c.name for c in aliases)}`" if aliases else ""
    lines = [f"### {first.kind} `{first.name}`{also}", ""]
    if first.kind == "recipe":
        return "\n".join([*lines, f"{summary(first)} `ebmkit recipes {first.name}` prints it.", ""])
    source = read(first)
    if source is None:
        return "\n".join([*lines, f"`{first.target}`", ""])
    lines += [markdown(source.doc), ""]
    if source.fields:
        lines += ["| field | type | default | bounds | meaning |", "|---|---|---|---|---|"]
        lines += [_row(field) for field in source.fields]
        lines.append("")
    return "\n".join(lines)


def _row(field: Field) -> str:
    default = "required" if field.default is None else f"`{field.default}`"
    cells = [f"`{field.name}`", f"`{field.type}`", default, field.bounds.strip(), field.doc]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
