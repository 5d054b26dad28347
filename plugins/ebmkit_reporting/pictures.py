"""Pictures of a run: samples beside data, the density, the metrics over training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ebmkit import Batch, Diagnosis, Pipeline, Run, Section, UserError, hookimpl
from ebmkit_reporting import figures
from ebmkit_reporting.curves import draw_curves
from ebmkit_reporting.diagnosis import draw_diagnosis
from ebmkit_reporting.metrics_writer import FILE, records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 2000
IMAGES = 64
METRICS = 60
TICKS = 300


class Pictures:
    """Pictures of a run: samples, energy, training and diagnosis.

    Draws samples.png, energy.png, training.png and diagnosis.png into the run directory, and each
    metric's curve into a run's report.
    """

    @hookimpl
    def evaluation_done(self, run: Run, data: Batch, samples: Batch | None) -> None:
        if run.directory is None:
            return
        if samples is not None:
            _write(draw_samples(data.x, samples.x), run.directory / "samples.png")
        _write(draw_energy(run.pipeline, data, samples), run.directory / "energy.png")

    @hookimpl
    def diagnosis_done(self, directory: Path, diagnosis: Diagnosis) -> None:
        path = directory / "diagnosis.png"
        figure = draw_diagnosis(diagnosis)
        if figure is None:
            # That of an earlier diagnosis would pass for this one's.
            path.unlink(missing_ok=True)
        else:
            _write(figure, path)

    @hookimpl
    def report_sections(self, records: Sequence[Mapping[str, float]]) -> Sequence[Section]:
        curves = draw_curves(records)
        return [Section("Training", pictures=curves, shows=["training.png"])] if curves else []

    @hookimpl
    def run_end(self, run: Run, error: BaseException | None) -> None:  # noqa: ARG002
        if run.directory is not None and (run.directory / FILE).is_file():
            figure = draw_training(run.directory / FILE)
            if figure is not None:
                _write(figure, run.directory / "training.png")


def _write(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def draw_samples(data: Tensor, samples: Tensor) -> Figure:
    """Data (n, *event) and samples side by side: points in 2-D, images, else histograms."""
    shape = data.shape[1:]
    figure = figures.empty(10, 1 + 4.5 * _aspect(data))
    axes = figure.subplots(1, 2)
    for ax, points, title in zip(axes, (data, samples), ("data", "samples"), strict=True):
        ax.set_title(title)
        if shape == (2,):
            x = points[:SHOWN].cpu()
            ax.scatter(x[:, 0], x[:, 1], s=3, alpha=0.5, linewidths=0)
        elif len(shape) == 3 and shape[0] == 1:
            ax.imshow(
                _tiles(points[:IMAGES, 0].cpu()),
                cmap="gray",
                vmin=float(data.min()),
                vmax=float(data.max()),
            )
            ax.set_axis_off()
        else:
            for feature in points.flatten(1).T[:10].cpu():
                ax.hist(feature.numpy(), bins=50, histtype="step", density=True)
    if shape == (2,):
        low, high = _box(data)
        for ax in axes:
            ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    return figure


def draw_energy(pipeline: Pipeline, data: Batch, samples: Batch | None) -> Figure:
    """The model's density on the plane beside the data's; elsewhere histograms of energies."""
    if tuple(data.x.shape[1:]) != (2,) or data.condition is not None:
        return _energies(pipeline, data, samples)
    low, high = _box(data.x)
    ticks = [torch.linspace(low[i], high[i], TICKS, device=data.x.device) for i in (0, 1)]
    grid = torch.cartesian_prod(*ticks).to(data.x.dtype)
    with torch.no_grad():
        log_model = -pipeline.model(grid)
    log_model = log_model - torch.logsumexp(log_model, 0) - _log_cell(low, high)
    maps = {"model density": log_model.exp()}
    log_density: Callable[[Tensor], Tensor] | None = getattr(pipeline.dataset, "log_density", None)
    if log_density is not None:
        maps["data density"] = log_density(grid).exp()
    maps["model energy"] = -log_model
    height = 0.6 + 4 * _aspect(data.x)
    figure = figures.empty(5 * len(maps), height)
    for ax, (title, values) in zip(figure.subplots(1, len(maps)), maps.items(), strict=True):
        _map(figure, ax, values, low, high, title)
    return figure


def draw_training(path: Path) -> Figure | None:
    """Each metric over the training steps; None where none were recorded."""
    found = records(path)
    names = [n for n in dict.fromkeys(k for r in found for k in r) if n not in ("step", "seconds")]
    names = names[:METRICS]
    # A run that went back takes steps again: each stretch is a line of its own.
    stretches = [
        [r for r in found if r.get("rollbacks", 0) == number]
        for number in dict.fromkeys(r.get("rollbacks", 0) for r in found)
    ]
    if not names:
        return None
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = figures.empty(4.5 * columns, 2.8 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, name in zip(axes, names, strict=False):
        for stretch in stretches:
            told = [r for r in stretch if name in r]
            ax.plot([r["step"] for r in told], [r[name] for r in told])
        ax.set(title=name, xlabel="step")
        ax.grid(alpha=0.3)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    return figure


def _energies(pipeline: Pipeline, data: Batch, samples: Batch | None) -> Figure:
    figure = figures.empty(6, 4)
    ax = figure.subplots()
    for name, batch in (("data", data), ("samples", samples)):
        if batch is not None:
            with torch.no_grad():
                conditions: Mapping[str, Any] = (
                    {} if batch.condition is None else {"condition": batch.condition}
                )
                energies = pipeline.model(batch.x, **conditions)
            ax.hist(energies.cpu().numpy(), bins=60, histtype="step", density=True, label=name)
    ax.set(xlabel="energy", ylabel="frequency")
    ax.legend()
    return figure


def _map(
    figure: Figure, ax: Axes, values: Tensor, low: list[float], high: list[float], title: str
) -> None:
    image = ax.imshow(
        values.view(TICKS, TICKS).T.cpu().numpy(),
        origin="lower",
        extent=(low[0], high[0], low[1], high[1]),
        cmap="viridis_r" if title.endswith("energy") else "viridis",
    )
    ax.set_title(title)
    figure.colorbar(image, ax=ax, shrink=0.8)


def _box(data: Tensor) -> tuple[list[float], list[float]]:
    low, high = data.min(0).values, data.max(0).values
    # Points without spread have a box around them all the same.
    margin = torch.where(high > low, 0.15 * (high - low), 0.5)
    return (low - margin).tolist(), (high + margin).tolist()


def _aspect(data: Tensor) -> float:
    """Height over width of the box around points in the plane; 1 for other events."""
    if data.shape[1:] != (2,):
        return 1.0
    low, high = _box(data)
    return min(max((high[1] - low[1]) / max(high[0] - low[0], 1e-9), 0.4), 2.0)


def _log_cell(low: list[float], high: list[float]) -> float:
    return sum(math.log((h - lo) / (TICKS - 1)) for lo, h in zip(low, high, strict=True))


def _tiles(images: Tensor) -> Tensor:
    side = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1:]
    sheet = images.new_full((side * (height + 1), side * (width + 1)), float(images.max()))
    for position, image in enumerate(images):
        row, column = divmod(position, side)
        top, left = row * (height + 1), column * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet
