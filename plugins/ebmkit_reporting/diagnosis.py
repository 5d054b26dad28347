"""A picture of a diagnosis: traces, ranks and autocorrelation of the energy and of the worst number."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebmkit import Diagnosis, autocorrelation
from ebmkit_reporting import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_CHAINS = 8
BINS = 20
LAGS = 200
_WORST = ", the worst"
COLOURS = {"converged": "#1a7f37", "not yet": "#9a6700", "diverging": "#cf222e"}


def draw_diagnosis(diagnosis: Diagnosis) -> Figure | None:
    """A row for the energy and one for the number of the event with the worst R̂; None where no chains
    came to their end."""
    x, energies = diagnosis.trajectory, diagnosis.energies
    if x is None or energies is None:
        return None
    hats = diagnosis.r_hat
    rows = [("energy", energies, math.nan if hats is None else hats.energy)]
    if diagnosis.worst_number is not None and hats is not None:
        place = diagnosis.worst_number
        name = f"x[{', '.join(map(str, place))}]" if place else "x"
        numbers = x.reshape(*x.shape[:2], -1)
        rows.append((name + _WORST, numbers[..., _flat(place, x)], hats.worst))
    figure = figures.empty(13, 0.9 + 3.1 * len(rows))
    reason = "\n".join(textwrap.wrap(diagnosis.reason, 130))
    figure.suptitle(
        f"{diagnosis.verdict} — {reason}",
        color=COLOURS[diagnosis.verdict],
        fontsize=10,
        x=0.01,
        ha="left",
    )
    grid = figure.subplots(len(rows), 3, squeeze=False, width_ratios=[2, 1.3, 1.2])
    for (trace, ranks, lags), (name, values, r_hat) in zip(grid, rows, strict=True):
        values = values.detach().double().cpu()
        _trace(trace, values, diagnosis.thin)
        trace.set(title=f"{name}: R̂ = {r_hat:.3f}", ylabel=name.removesuffix(_WORST))
        _ranks(figure, ranks, values)
        _autocorrelation(lags, values, diagnosis.thin)
    return figure


def _flat(place: tuple[int, ...], x: Tensor) -> int:
    """Where a place in the event is once its numbers are in one row."""
    index = 0
    for i, size in zip(place, x.shape[2:], strict=True):
        index = index * size + i
    return index


def _trace(ax: Axes, values: Tensor, thin: int) -> None:
    steps = torch.arange(1, len(values) + 1) * thin
    for chain in values.T[:SHOWN_CHAINS]:
        ax.plot(steps.numpy(), chain.numpy(), linewidth=0.6, alpha=0.7)
    shown = min(SHOWN_CHAINS, values.shape[1])
    ax.set(xlabel=f"step, {shown} of {values.shape[1]} chains", xlim=(0, int(steps[-1])))
    ax.grid(alpha=0.3)


def _ranks(figure: Figure, ax: Axes, values: Tensor) -> None:
    """Where each chain's draws stand among those of all chains: 1 everywhere where the chains agree."""
    from matplotlib.ticker import MaxNLocator

    draws, chains = values.shape
    # Ties are broken by lot, the same each time, so that discrete traces are even too.
    lot = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(0))
    order = lot[torch.argsort(values.T.flatten()[lot], stable=True)]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    bins = min(BINS, draws)
    places = ranks.reshape(chains, draws) * bins // len(order)
    counts = torch.zeros(chains, bins, dtype=torch.float64)
    counts.scatter_add_(1, places, torch.ones_like(places, dtype=torch.float64))
    image = ax.imshow(
        (counts * bins / draws).numpy(),
        cmap="RdBu_r",
        vmin=0,
        vmax=2,
        aspect="auto",
        extent=(0, 1, chains - 0.5, -0.5),
    )
    figure.colorbar(image, ax=ax, extend="max", ticks=[0, 1, 2])
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(title="draws over those expected", xlabel="rank among all draws", ylabel="chain")


def _autocorrelation(ax: Axes, values: Tensor, thin: int) -> None:
    found = autocorrelation(values, min(LAGS, max(len(values) // 2, 1)))
    lags = (torch.arange(len(found)) * thin).numpy()
    for chain in found.T:
        ax.plot(lags, chain.numpy(), linewidth=0.6, alpha=0.4, color="tab:blue")
    ax.plot(lags, found.nanmean(1).numpy(), linewidth=1.8, color="tab:blue")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(title="autocorrelation", xlabel="lag in steps", ylim=(min(-0.2, _low(found)), 1.02))
    ax.grid(alpha=0.3)


def _low(found: Tensor) -> float:
    finite = found[found.isfinite()]
    return float(finite.min()) - 0.02 if len(finite) else -0.2
