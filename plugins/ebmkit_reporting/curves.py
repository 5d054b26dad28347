"""Curves of a run's metrics for its report: one drawing each, that stands on a page light or dark."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ebmkit import Picture
from ebmkit_reporting import figures

GROUPS = 300
"""Of a longer curve the lowest and the highest point of each of so many groups are drawn."""
LARGEST = 1e100
"""What is larger is drawn as a gap, as what is not finite is."""
LIGHT, DARK = ("#59636e", "#d1d9e0", "#0969da"), ("#9198a1", "#3d444d", "#4493f8")
"""Colours of writing, grid and curve."""

Points = list[tuple[float, float]]


def draw_curves(records: Sequence[Mapping[str, float]]) -> list[Picture]:
    """A drawing of each metric over the steps."""
    names = dict.fromkeys(n for r in records for n in r if n not in ("step", "seconds"))
    found = []
    for name in names:
        points = [(r["step"], _drawn(r[name])) for r in records if name in r]
        light = dark = _svg(thinned(points))
        for colour, other in zip(LIGHT, DARK, strict=True):
            dark = dark.replace(colour.encode(), other.encode())
        found.append(Picture(name, light, kind="svg", dark=dark, text=_said(name, points)))
    return found


def thinned(points: Points) -> Points:
    """A curve of the same outline of fewer points; a short one as it is."""
    if len(points) <= 2 * GROUPS:
        return points
    kept: Points = []
    for group in range(GROUPS):
        begin, end = (g * len(points) // GROUPS for g in (group, group + 1))
        finite = [point for point in points[begin:end] if math.isfinite(point[1])]
        if finite:
            outer = {f(finite, key=lambda point: point[1]) for f in (min, max)}
            kept += sorted(outer)
        else:
            kept.append(points[begin])
    return kept


def _drawn(value: float) -> float:
    return value if abs(value) <= LARGEST else math.nan


def _said(name: str, points: Points) -> str:
    (first, begins), (last, ends) = points[0], points[-1]
    return f"{name}: {begins:.4g} at step {first:.0f}, {ends:.4g} at step {last:.0f}"


def _svg(points: Points) -> bytes:
    import matplotlib

    ink, lines, curve = LIGHT
    style: dict[Any, str] = {
        **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color", "text.color"), ink),
        **dict.fromkeys(("axes.edgecolor", "grid.color"), lines),
        "svg.fonttype": "none",
        # Names within the drawing are the same each time.
        "svg.hashsalt": "ebmkit",
    }
    with matplotlib.rc_context(style):
        figure = figures.empty(4.0, 2.2)
        ax = figure.subplots()
        steps, values = zip(*points, strict=True)
        ax.plot(steps, values, color=curve, linewidth=1.2, marker="." if len(points) == 1 else "")
        ax.set(xlabel="step")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid()
        content = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    drawing = content.getvalue()
    return drawing[drawing.index(b"<svg") :]
