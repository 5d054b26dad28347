"""Draws house.svg, the kernel's rooms and which imports which, from the table of rooms and the code.

    python docs/make_house.py

The rooms are the rows of the table in house.md, the arrows the imports in their sources. An arrow
that follows from others is left out: where A imports B and B imports C, none is drawn from A to C. So
is what is imported for type checkers alone. Nothing is imported, and the text is the same each time.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from pathlib import Path
from textwrap import wrap

HERE = Path(__file__).parent
ROOT = HERE.parent
PICTURE = HERE / "house.svg"
TITLES = {
    "protocols": "protocols",
    "fields": "words",
    "registry": "names",
    "spec": "tables",
    "composer": "composer",
    "objectives": "objective",
    "compiling": "compiled code",
    "chains": "chains",
    "calculus": "calculus",
    "pipeline": "pipeline",
    "ranks": "processes",
    "seeds": "seeds, data",
    "evaluation": "evaluation",
    "diagnostics": "diagnostics",
    "rundir": "run directory",
    "loading": "runs again",
    "bounds": "bounds",
    "hooks": "hooks",
    "cli": "command line",
    "reports": "reports",
    "testing": "conformance kit",
    "scaffold": "new plugins",
}
"""What a room is called in the picture, by its first module."""

Edge = tuple[str, str]
WIDTH, BETWEEN, MARGIN, GAP, LEADING, THREAD = 156, 44, 16, 22, 13, 12
"""Lengths in pixels: a room, the way to plugins, the border, between rooms, a line, a passing way."""


def rooms() -> dict[str, list[str]]:
    """The modules and packages of each room of the kernel, by the first one."""
    page = (HERE / "house.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`ebmkit/.*?) \|", page, re.MULTILINE)
    found = [re.findall(r"`(?:ebmkit/)?(\w+(?:\.py|/))`", row) for row in rows]
    return {re.sub(r"\W.*", "", names[0]): names for names in found}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """What a file imports, and whether only when a function runs; not what types alone need."""

    def walk(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", late) for alias in node.names)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            children: list[ast.AST] = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        inner = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in children:
            yield from walk(child, inner)

    return walk(ast.parse(path.read_text(encoding="utf-8")), False)


def arrows(houses: dict[str, list[str]]) -> tuple[set[Edge], set[Edge]]:
    """Which room imports which when it is imported; and which only when it is used."""
    room = {re.sub(r"\W.*", "", n): first for first, names in houses.items() for n in names}
    at_once, when_used = set(), set()
    for first, names in houses.items():
        for name in names:
            place = ROOT / "ebmkit" / name
            for path in sorted(place.rglob("*.py")) if name.endswith("/") else [place]:
                for target, late in imports(path):
                    if target.startswith("ebmkit.") and (other := room.get(target.split(".")[1])):
                        (when_used if late else at_once).add((first, other))
    own = {(name, name) for name in houses}
    return at_once - own, when_used - at_once - own


def plugins() -> list[str]:
    """The folders of built-in parts."""
    return sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))


def reached(start: str, edges: set[Edge]) -> set[str]:
    """Rooms that arrows lead to from one, over any number of others."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        here = todo.pop()
        fresh = {b for a, b in edges if a == here} - seen
        seen |= fresh
        todo += sorted(fresh)
    return seen


def drawn(at_once: set[Edge], when_used: set[Edge]) -> tuple[set[Edge], set[Edge]]:
    """The arrows that do not follow from others; and those that lead back up, which come only late."""
    for start in sorted({a for a, _ in at_once}):
        if start in reached(start, at_once):
            raise ValueError(f"rooms import each other in a circle, through {start}")
    down, up = set(at_once), set()
    for edge in sorted(when_used):
        (up if edge[0] in reached(edge[1], down) else down).add(edge)
    return {edge for edge in down if edge[1] not in reached(edge[0], down - {edge})}, up


def levels(houses: dict[str, list[str]], down: set[Edge]) -> dict[str, int]:
    """How many rooms are below each one at most."""
    height: dict[str, int] = {}

    def of(name: str) -> int:
        if name not in height:
            height[name] = 1 + max((of(b) for a, b in sorted(down) if a == name), default=-1)
        return height[name]

    for name in houses:
        of(name)
    return height


def placed(
    height: dict[str, int], down: set[Edge]
) -> tuple[dict[str, float], dict[Edge, list[str]], list[list[str]]]:
    """The middle of each room, in pixels; the points that an arrow goes through, as names; and the
    floors, of rooms and of arrows that pass, from below."""
    floors: list[list[str]] = [[] for _ in range(max(height.values()) + 1)]
    for name, level in height.items():
        floors[level].append(name)
    ways = {}
    for upper, lower in sorted(down):
        passing = [f"{upper}/{lower}/{k}" for k in range(height[upper] - 1, height[lower], -1)]
        for k, name in zip(range(height[upper] - 1, height[lower], -1), passing, strict=True):
            floors[k].append(name)
        ways[upper, lower] = [upper, *passing, lower]
    beside: dict[str, list[str]] = {name: [] for floor in floors for name in floor}
    for way in ways.values():
        for one, other in pairwise(way):
            beside[one].append(other)
            beside[other].append(one)
    x: dict[str, float] = {}
    for floor in floors:
        spread(floor, dict.fromkeys(floor, 0.0), x)
    # Each goes to the mean of its neighbours, floors in turn and up and down again, and makes room.
    for turn in range(60):
        for floor in floors if turn % 2 else reversed(floors):
            wished = {n: sum(x[o] for o in beside[n]) / max(len(beside[n]), 1) for n in floor}
            if turn < 40:
                floor.sort(key=lambda name: (wished[name], name))
            spread(floor, wished, x)
    left = min(x[name] - half(name) for name in x)
    return {name: at - left + MARGIN for name, at in x.items()}, ways, floors


def half(name: str) -> float:
    return (THREAD if "/" in name else WIDTH) / 2


def spread(floor: list[str], wished: dict[str, float], x: dict[str, float]) -> None:
    """Put a floor's rooms where they wish to be, in their order and apart: blocks that touch share
    the mean of what their rooms wish."""
    blocks: list[tuple[float, float, list[tuple[str, float]]]] = []
    for name in floor:
        start, size, inside = wished[name] - half(name), 2 * half(name) + GAP, [(name, 0.0)]
        while blocks and blocks[-1][0] + blocks[-1][1] > start:
            before, wide, others = blocks.pop()
            n, m = len(others), len(inside)
            start = (n * before + m * (start - wide)) / (n + m)
            inside = [*others, *((name, at + wide) for name, at in inside)]
            size += wide
        blocks.append((start, size, inside))
    for start, _, inside in blocks:
        for name, at in inside:
            x[name] = start + at + half(name)


def render() -> str:
    """The picture, as SVG."""
    houses = rooms()
    down, up = drawn(*(edges := arrows(houses)))
    x, ways, floors = placed(levels(houses, down), down)
    texts = {
        first: wrap(" ".join(n.removesuffix(".py") for n in names), 25)
        for first, names in houses.items()
    }
    tall = {name: 26 + LEADING * len(lines) for name, lines in texts.items()}
    top: dict[str, float] = {}
    y = 2.0 * MARGIN + 24
    for floor in reversed(floors):
        high = max(tall.get(name, 0) for name in floor)
        for name in floor:
            top[name] = y + (high - tall.get(name, high)) / 2
            tall.setdefault(name, high)
        y += high + 38
    right = max(x[name] + half(name) for name in x) + MARGIN
    foot = y - 38 + MARGIN
    below, end = _below(right, foot)
    height = end + MARGIN + 44
    shapes = [
        f'<rect width="{right + 4:.0f}" height="{height:.0f}" rx="8" fill="#ffffff"/>',
        f'<rect class="house" x="4" y="4" width="{right - 4:.0f}" height="{foot - 4:.0f}" rx="8"/>',
        f'<text class="big" x="{MARGIN}" y="{MARGIN + 12}">ebmkit, the kernel</text>',
        *below,
    ]
    for edge, way in sorted(ways.items()):
        late = "" if edge in edges[0] else ' class="late"'
        shapes.append(f'<path{late} d="{_curve(way, x, top, tall)}" marker-end="url(#tip)"/>')
    for lower, upper in sorted(up):
        # Around the right sides, where nothing else goes in or out.
        start, end = x[lower] + half(lower), x[upper] + half(upper)
        low, high = top[lower] + tall[lower] / 2, top[upper] + tall[upper] / 2
        bend = max(start, end) + 2 * GAP
        shapes.append(
            f'<path class="late" d="M{start:.0f} {low:.0f}C{bend:.0f} {low:.0f} {bend:.0f} '
            f'{high:.0f} {end:.0f} {high:.0f}" marker-end="url(#tip)"/>'
        )
    for first, lines in texts.items():
        left = x[first] - half(first)
        shapes.append(_box("room", left, top[first], WIDTH, tall[first], TITLES[first], lines))
    shapes.append(
        f'<text x="{MARGIN}" y="{height - 26:.0f}">An arrow leads from what imports to what is '
        "imported; a dashed one is imported only when it is used.</text>"
        f'<text x="{MARGIN}" y="{height - 11:.0f}">What follows from other arrows is left out: '
        "a room may import whatever lies below it along arrows.</text>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 4:.0f} {height:.0f}" '
        f'width="{right + 4:.0f}" role="img">\n{STYLE}\n' + "\n".join(shapes) + "\n</svg>\n"
    )


STYLE = """\
<title>The rooms of ebmkit and which imports which</title>
<style>
text { font: 10.5px system-ui, sans-serif; fill: #444444 }
.name { font-size: 12.5px; font-weight: 600; fill: #1a1a1a }
.big { font-size: 14px; font-weight: 600; fill: #1a1a1a }
.house { fill: #f5f7fa; stroke: #c3ccd8 }
.room { fill: #ffffff; stroke: #4a7ab5 }
.plugin { fill: #fff8ec; stroke: #c98a1b }
path { fill: none; stroke: #7d8896; stroke-width: 1.2 }
.late { stroke-dasharray: 4 3 }
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><polygon points="0,0.5 8,4 0,7.5" fill="#7d8896"/></marker></defs>"""


def _curve(
    way: list[str], x: dict[str, float], top: dict[str, float], tall: dict[str, float]
) -> str:
    drawn = f"M{x[way[0]]:.0f} {top[way[0]] + tall[way[0]]:.0f}"
    for one, other in pairwise(way):
        start, end = top[one] + tall[one], top[other]
        middle = (start + end) / 2
        drawn += f"C{x[one]:.0f} {middle:.0f} {x[other]:.0f} {middle:.0f} {x[other]:.0f} {end:.0f}"
        if other != way[-1]:
            drawn += f"V{top[other] + tall[other]:.0f}"
    return drawn


def _box(
    kind: str, left: float, top: float, width: float, tall: float, title: str, lines: list[str]
) -> str:
    middle = left + width / 2
    words = "".join(
        f'<text x="{middle:.0f}" y="{top + 30 + LEADING * k:.0f}" text-anchor="middle">'
        f"{escape(line)}</text>"
        for k, line in enumerate(lines)
    )
    return (
        f'<rect class="{kind}" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" '
        f'height="{tall:.0f}" rx="5"/><text class="name" x="{middle:.0f}" y="{top + 16:.0f}" '
        f'text-anchor="middle">{escape(title)}</text>{words}'
    )


def _below(right: float, top: float) -> tuple[list[str], float]:
    """The plugins and the two ways between them and the kernel; and where they end."""
    shapes = []
    for at, start, end, late, words in (
        (0.25, top + BETWEEN - 3, top + 4, "", "import ebmkit, its public names"),
        (0.62, top, top + BETWEEN - 7, ' class="late"', "entry points, imported when used"),
    ):
        x = right * at
        shapes.append(
            f'<path{late} d="M{x:.0f} {start:.0f}V{end:.0f}" marker-end="url(#tip)"/>'
            f'<text x="{x + 10:.0f}" y="{top + BETWEEN / 2 + 3:.0f}">{words}</text>'
        )
    y, wide = top + BETWEEN, (right - 2 * MARGIN + GAP / 2) / 4
    shapes.append(
        f'<text class="big" x="{MARGIN}" y="{y + 18:.0f}">plugins, the built-in parts</text>'
    )
    for k, name in enumerate([*plugins(), "… whatever else is installed"]):
        left, level = MARGIN + wide * (k % 4), y + 32 + 34 * (k // 4)
        shapes.append(
            f'<rect class="plugin" x="{left:.0f}" y="{level:.0f}" width="{wide - GAP / 2:.0f}" '
            f'height="26" rx="5"/><text x="{left + wide / 2 - GAP / 4:.0f}" y="{level + 17:.0f}" '
            f'text-anchor="middle">{name}</text>'
        )
    return shapes, level + 26


if __name__ == "__main__":
    PICTURE.write_text(render(), encoding="utf-8")
