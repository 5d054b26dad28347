"""Curves of a report: one of each metric, of the numbers that were recorded, light and dark."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from ebmkit_reporting.curves import DARK, GROUPS, LIGHT, draw_curves, thinned


def lines(drawing: bytes) -> list[list[tuple[float, float]]]:
    """The stretches of the curve in a drawing's own coordinates, in which y points down."""
    root = ElementTree.fromstring(drawing)
    style = f"stroke: {LIGHT[2]}"
    paths = [e for e in root.iter() if style in e.attrib.get("style", "") and "d" in e.attrib]
    found: list[list[tuple[float, float]]] = []
    for move, x, y in re.findall(r"([ML]) ([\d.-]+) ([\d.-]+)", paths[0].attrib["d"]):
        if move == "M":
            found.append([])
        found[-1].append((float(x), float(y)))
    return found


def test_one_of_each_metric_in_proportion() -> None:
    records = [{"step": s, "seconds": 0.1, "loss": float(s * s)} for s in (0, 1, 2, 4)]
    records[-1]["late"] = 3.0
    loss, late = draw_curves(records)
    assert (loss.title, late.title) == ("loss", "late")
    assert loss.text == "loss: 0 at step 0, 16 at step 4"
    [curve] = lines(loss.content)
    (x0, y0), (x1, y1) = curve[0], curve[-1]
    for (x, y), step in zip(curve, (0, 1, 2, 4), strict=True):
        assert (x - x0) / (x1 - x0) == pytest.approx(step / 4, abs=1e-3)
        assert (y - y0) / (y1 - y0) == pytest.approx(step**2 / 16, abs=1e-3)


def test_light_and_dark_differ_in_colours_alone() -> None:
    [picture] = draw_curves([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}])
    assert picture.dark is not None
    light, dark = picture.content.decode(), picture.dark.decode()
    assert light != dark
    for one, other in zip(LIGHT, DARK, strict=True):
        assert one in light and one not in dark and other in dark
        light = light.replace(one, other)
    assert light == dark


def test_what_is_not_finite_is_a_gap() -> None:
    values = [1.0, 2.0, math.nan, 1.0, math.inf, -1e308, 3.0, 2.0]
    [picture] = draw_curves([{"step": s, "loss": v} for s, v in enumerate(values)])
    assert [len(stretch) for stretch in lines(picture.content)] == [2, 1, 2]
    assert draw_curves([{"step": 1, "loss": math.nan}])
    assert draw_curves([]) == draw_curves([{"step": 1, "seconds": 2.0}]) == []


def test_a_name_is_not_drawn() -> None:
    """It comes from a file, and would be read as mathematics."""
    for name in (r"$\frac{$", "<script>"):
        [picture] = draw_curves([{"step": 1, name: 1.0}])
        assert name.encode() not in picture.content


def test_a_long_curve_keeps_its_outline() -> None:
    values = [math.sin(s / 500) for s in range(20_000)]
    values[777], values[15_001], values[9_000] = 50.0, -40.0, math.nan
    points = list(enumerate(values))
    kept = thinned(points)
    assert len(kept) <= 2 * GROUPS
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert (777, 50.0) in kept and (15_001, -40.0) in kept
    assert set(kept) <= set(points)
    short = points[: 2 * GROUPS]
    assert thinned(short) == short
    gone = [(s, math.nan) for s in range(1000)]
    assert len(thinned(gone)) == GROUPS
