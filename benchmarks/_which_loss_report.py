"""Tables and pictures of what `which_loss.py` measured, made of its file of figures alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _sampling_report import table
from _which_loss_cases import (
    BASELINE,
    DATA,
    LOSSES,
    SEEDS,
    TIP_RATES,
    TIPS,
    TRIAL_SEED,
)

Figures = Mapping[str, Any]
Of = Callable[[Figures], float]

MEASURES: dict[str, Of] = {
    "forest": lambda figures: figures["told"]["forest"],
    "perceptron": lambda figures: figures["told"]["perceptron"],
    "energy": lambda figures: figures["energy_auroc"],
    "test loss": lambda figures: figures["test_loss"],
}
"""What is said of models of rows."""
PLAIN = ("none", "the plain recipe")
FAILED = 1e3
"""Where pictures put a run that has no KL divergence."""


class Measured:
    """The figures by what they are of."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        self.machine: dict[str, Any] = content["machine"]
        self._cases: list[dict[str, Any]] = list(content["cases"].values())

    def of(self, does: str, **about: Any) -> list[Figures]:
        """Figures of all cases that are so, by seed."""
        cases = [
            case
            for case in self._cases
            if case["does"] == does
            and all(case.get(name) == value for name, value in about.items())
        ]
        return [case["figures"] for case in sorted(cases, key=lambda case: case.get("seed", 0))]

    def seeds(self, data: str, loss: str) -> list[Figures]:
        """Of the runs on the seeds that figures are of."""
        does = "baseline" if loss == BASELINE else "train"
        return [
            figures for seed in SEEDS for figures in self.of(does, data=data, loss=loss, seed=seed)
        ]

    def rate(self, data: str, loss: str) -> float:
        """The learning rate that was chosen."""
        rates = {
            case["lr"]
            for case in self._cases
            if case["does"] == "train"
            and (case["data"], case["loss"]) == (data, loss)
            and case["seed"] != TRIAL_SEED
        }
        (rate,) = rates
        return float(rate)

    def pace(self, data: str) -> Figures:
        (figures,) = self.of("pace", data=data)
        return figures


def kl(figures: Figures) -> float:
    return float(figures["kl_nats"])


def spread(runs: Sequence[Figures], of: Of, digits: int = 2) -> str:
    """Median, least and largest over the runs that came to the end, and how many did not."""
    values = [of(run) for run in runs if "reason" not in run]
    lost = len(runs) - len(values)
    note = f", {lost} of {len(runs)} failed" if lost else ""
    if not values:
        return f"all {len(runs)} failed"
    words = [_number(value, digits) for value in (statistics.median(values), *_ends(values))]
    return f"{words[0]} ({words[1]} to {words[2]}){note}"


def losses_in_the_plane(measured: Measured) -> str:
    rows = []
    for data in (name for name in DATA if "data_noise" not in DATA[name].get("training", {})):
        for loss in [*LOSSES, BASELINE]:
            runs = measured.seeds(data, loss)
            rows.append([data, loss, *_settings(measured, data, loss), spread(runs, kl, 3)])
    titles = ["data", "loss", "learning rate", "ms a step", "memory", "KL(data‖model), nats"]
    return table(titles, rows)


def losses_on_rows(measured: Measured) -> str:
    rows = []
    for data in (name for name in DATA if "data_noise" in DATA[name].get("training", {})):
        for loss in [*LOSSES, BASELINE]:
            runs = measured.seeds(data, loss)
            said = [
                spread(runs, of, 1 if name == "test loss" else 2) for name, of in MEASURES.items()
            ]
            rows.append([data, loss, *said])
    told = ["samples told by a forest", "by a perceptron", "rows told from a Gaussian"]
    return table(["data", "loss", *told, "test loss"], rows)


def costs_on_rows(measured: Measured) -> str:
    rows = [
        [data, loss, *_settings(measured, data, loss)]
        for data in DATA
        if "data_noise" in DATA[data].get("training", {})
        for loss in LOSSES
    ]
    return table(["data", "loss", "learning rate", "ms a step", "memory"], rows)


def _settings(measured: Measured, data: str, loss: str) -> list[str]:
    if loss == BASELINE:
        return ["", "", ""]
    memory = statistics.median(
        run["memory_mib"] for run in measured.seeds(data, loss) if "memory_mib" in run
    )
    pace = measured.pace(data)[loss]
    return [f"{measured.rate(data, loss):g}", _number(pace, 1), f"{memory:.0f} MiB"]


def tips(measured: Measured) -> str:
    rows = []
    plain = statistics.median(
        run["seconds"]
        for run in measured.of("tip", tip=PLAIN[0], setting=PLAIN[1], lr=TIP_RATES[0])
    )
    for tip, settings in TIPS.items():
        for setting in settings:
            by_rate = [measured.of("tip", tip=tip, setting=setting, lr=lr) for lr in TIP_RATES]
            time = statistics.median(run["seconds"] for run in by_rate[0]) / plain
            rows.append([tip, setting, f"{time:.1f}", *(spread(runs, kl) for runs in by_rate)])
    rates = [f"KL at a learning rate of {lr:g}" for lr in TIP_RATES]
    return table(["tip", "setting", "time", *rates], rows)


def gaps(measured: Measured) -> str:
    """How well the last energy gap tells the KL divergence, over all runs of the tips that ended."""
    from scipy.stats import spearmanr

    rows = []
    for lr in TIP_RATES:
        runs = [run for run in measured.of("tip", lr=lr) if "reason" not in run]
        rank = spearmanr([abs(run["energy_gap"]) for run in runs], [kl(run) for run in runs])
        small = [kl(run) for run in runs if abs(run["energy_gap"]) < 0.5]
        rows.append(
            [
                f"{lr:g}",
                f"{len(runs)}",
                f"{rank.statistic:.2f}",
                f"{len(small)}",
                " to ".join(_number(end, 2) for end in _ends(small)) if small else "",
            ]
        )
    titles = ["learning rate", "runs", "rank correlation", "gaps below half a nat"]
    return table([*titles, "their KL"], rows)


def _number(value: float, digits: int) -> str:
    """Rounded to so many places, or to two digits where that would say nothing."""
    if value and abs(value) < 10**-digits:
        return f"{value:.1g}"
    return f"{value:,.{digits}f}" if abs(value) < 1e4 else f"{value:.1e}"


def _ends(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    return min(values), max(values)


def _strip(axes: Any, rows: Sequence[tuple[str, Sequence[Figures]]], of: Of, **style: Any) -> None:
    """A point for each run, a row for each name; runs that failed are crosses at the edge."""
    for place, (_, runs) in enumerate(rows):
        good = [of(run) for run in runs if "reason" not in run]
        lost = len(runs) - len(good)
        axes.plot(good, [-place] * len(good), "o", ms=4, alpha=0.7, mew=0, **style)
        if good:
            axes.plot(statistics.median(good), -place, "|", ms=11, mew=1.6, **style)
        if lost:
            axes.plot(FAILED, -place, "x", ms=6, clip_on=False, **style)
            at = {"xytext": (-7, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            axes.annotate(f"{lost}", (FAILED, -place), fontsize=7, **at, **style)
    axes.set_yticks([-place for place in range(len(rows))], [name for name, _ in rows])


def _save(figure: Any, path: Path) -> Path:
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "ebmkit", "svg.fonttype": "path"}):
        figure.savefig(path, metadata={"Date": None}, transparent=False)
    # Lines that end in blanks are no part of a picture.
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
    return path


def losses_picture(measured: Measured, path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    for place, data in enumerate(DATA):
        axes = figure.add_subplot(2, 2, place + 1)
        rows = [(loss, measured.seeds(data, loss)) for loss in [*LOSSES, BASELINE]]
        plane = "data_noise" not in DATA[data].get("training", {})
        _strip(axes, rows, kl if plane else MEASURES["energy"], color="C0")
        axes.set_title(data, fontsize=10)
        axes.set_xlabel("KL(data‖model), nats: less is better" if plane else ROWS_LABEL)
        if plane:
            axes.set_xscale("log")
        _bare(axes)
    return _save(figure, path)


ROWS_LABEL = "rows told from a Gaussian, AUROC: more is better"


def tips_picture(measured: Measured, path: Path) -> Path:
    from matplotlib.figure import Figure

    settings = [(tip, setting) for tip, each in TIPS.items() for setting in each]
    figure = Figure(figsize=(7.2, 7.6), layout="constrained")
    for place, lr in enumerate(TIP_RATES):
        axes = figure.add_subplot(1, 2, place + 1)
        rows = [
            (f"{tip[2:]}, {setting}" if tip[0].isdigit() else setting, runs)
            for tip, setting in settings
            for runs in [measured.of("tip", tip=tip, setting=setting, lr=lr)]
        ]
        _strip(axes, rows, kl, color=f"C{place}")
        plain = [kl(run) for run in rows[0][1] if "reason" not in run]
        if plain:
            axes.axvline(statistics.median(plain), color="0.6", lw=0.8)
        if place:
            axes.set_yticklabels([])
        axes.set(xscale="log", xlim=(0.02, FAILED))
        axes.set_title(f"learning rate {lr:g}", fontsize=10)
        axes.set_xlabel("KL(data‖model), nats; n × failed")
        _bare(axes)
    return _save(figure, path)


def chart(measured: Measured, path: Path) -> Path:
    """From what one has to the loss, with the figures that speak for it."""
    from matplotlib.figure import Figure

    def said(data: str, loss: str) -> str:
        runs = [run for run in measured.seeds(data, loss) if "reason" not in run]
        return _number(statistics.median(kl(run) for run in runs), 2)

    def both(loss: str) -> str:
        return " and ".join(said(data, loss) for data in ("two moons", "eight Gaussians"))

    def pace(data: str, loss: str) -> str:
        return f"{_number(measured.pace(data)[loss], 1)} ms"

    steps = [
        (
            "Are the points discrete states?",
            "PCD or CD, by Gibbs sampling",
            "the others need derivatives in x",
        ),
        (
            "Must each step be cheap, as in many\ndimensions or with a large network?",
            "DSM, with σ as large as may stay",
            f"digits: {pace('digits', 'DSM')} a step, CD {pace('digits', 'CD')}, "
            f"SM {pace('digits', 'SM')}",
        ),
        (
            "Do chains move well on such energies?\n(acceptance well above 0)",
            "CD, or PCD where long chains are wanted",
            f"moons and Gaussians: {both('CD')} nats, PCD {both('PCD')}",
        ),
        (
            "Are the dimensions few?",
            "SM",
            f"moons and Gaussians: {both('SM')} nats, without a sampler",
        ),
        (
            None,
            "SSM, more projections for less noise",
            f"digits: {pace('digits', 'SSM')} a step, SM {pace('digits', 'SM')}",
        ),
    ]
    figure = Figure(figsize=(7.4, 4.9))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(0.7 - len(steps), 0.5))
    axes.set_axis_off()
    asked, answer = {"fc": "white", "ec": "0.35"}, {"fc": "#e3ecf7", "ec": "C0"}
    arrow = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 0}
    for place, (question, loss, figures) in enumerate(steps):
        x = 0.73 if question else 0.23
        axes.text(x, 0.12 - place, loss, ha="center", va="bottom", fontsize=9, weight="bold")
        axes.text(x, 0.06 - place, figures, ha="center", va="top", fontsize=7.5)
        width = 0.23 if question else 0.21
        axes.add_patch(_box(x - width, -place - 0.16, 2 * width, 0.52, answer))
        if question is None:
            continue
        axes.text(0.23, 0.1 - place, question, ha="center", va="center", fontsize=9)
        axes.add_patch(_box(0.02, -place - 0.16, 0.42, 0.52, asked))
        axes.annotate("", (0.495, 0.1 - place), (0.445, 0.1 - place), arrowprops=arrow)
        axes.text(0.47, 0.14 - place, "yes", ha="center", fontsize=8)
        axes.annotate("", (0.23, -0.63 - place), (0.23, -0.17 - place), arrowprops=arrow)
        axes.text(0.24, -0.42 - place, "no", fontsize=8)
    return _save(figure, path)


def _box(x: float, y: float, width: float, height: float, style: Mapping[str, str]) -> Any:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.02",
        facecolor=style["fc"],
        edgecolor=style["ec"],
        zorder=0,
    )


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(8)


def fragments(measured: Measured) -> dict[str, str]:
    """Tables by the name of their file."""
    made = {
        "which_loss_plane.md": losses_in_the_plane(measured),
        "which_loss_rows.md": losses_on_rows(measured),
        "which_loss_costs.md": costs_on_rows(measured),
        "which_loss_tips.md": tips(measured),
        "which_loss_gaps.md": gaps(measured),
    }
    return {name: f"{text}\n" for name, text in made.items()}


def write_report(results: Path) -> list[Path]:
    """Writes tables and pictures beside the figures; their paths."""
    measured, folder, written = Measured(results), results.parent, []
    for name, text in fragments(measured).items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written + [draw(measured, folder / name) for name, draw in PICTURES.items()]


PICTURES: dict[str, Callable[[Measured, Path], Path]] = {
    "which_loss.svg": losses_picture,
    "which_loss_chart.svg": chart,
    "which_loss_tips.svg": tips_picture,
}
