"""Writes what a benchmark found: a table in Markdown and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Panel(NamedTuple):
    """Bars of one work."""

    title: str
    unit: str
    heights: dict[str, float]
    logarithmic: bool


class Report:
    """Grows section by section; written anew after each, so that an end before the end loses none."""

    def __init__(self, folder: Path, machine: Callable[[Mapping[str, str]], str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.versions: dict[str, str] = {}
        self.panels: list[Panel] = []
        self._machine = machine
        self._sections: list[str] = []

    def section(self, title: str, text: str) -> None:
        self._sections.append(f"## {title}\n\n{text}\n")
        print(self._sections[-1], flush=True)
        head = f"# Sampling, side by side\n\n{self._machine(self.versions)}\n"
        (self.folder / "sampling.md").write_text("\n".join([head, *self._sections]))

    def panel(
        self, title: str, unit: str, heights: Mapping[str, float], *, logarithmic: bool = False
    ) -> None:
        self.panels.append(Panel(title, unit, dict(heights), logarithmic))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bars(report: Report) -> None:
    """One panel for each work, ours in colour."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if not report.panels:
        return
    columns = min(3, len(report.panels))
    lines = math.ceil(len(report.panels) / columns)
    path = report.folder / "sampling.svg"
    with mpl.rc_context({"svg.hashsalt": "ebmkit"}):
        figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
        for i, panel in enumerate(report.panels):
            axes = figure.add_subplot(lines, columns, i + 1)
            names = list(panel.heights)[::-1]
            colours = ["C0" if "ebmkit" in name else "0.7" for name in names]
            drawn = axes.barh(names, [panel.heights[name] for name in names], color=colours)
            axes.bar_label(drawn, fmt=lambda height: f"{height:,.0f}", padding=2, fontsize=7)
            axes.set(xlabel=panel.unit, xscale="log" if panel.logarithmic else "linear")
            axes.set_title(panel.title, fontsize=9)
            axes.tick_params(labelsize=7)
            axes.margins(x=0.15)
        figure.savefig(path, metadata={"Date": None})
    print(f"picture: {path}")
