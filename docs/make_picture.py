"""Draws pictures/two-moons.png, the README's picture: data, samples and density of one run.

ebmkit train two-moons --out runs/two-moons
python docs/make_picture.py runs/two-moons
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
os.environ.setdefault("MATPLOTLIBRC", str(HERE / "matplotlibrc"))

import matplotlib.pyplot as plt  # noqa: E402
import torch  # noqa: E402

import ebmkit  # noqa: E402

PICTURE = HERE / "pictures" / "two-moons.png"


def main(run: str) -> None:
    """Draw a run of the recipe two-moons."""
    pipeline = ebmkit.load(run)
    data = pipeline.data(2000, generator=pipeline.generator("picture")).x
    samples = pipeline.sample(2000)
    across, up = torch.linspace(-1.6, 2.6, 421), torch.linspace(-1.05, 1.55, 261)
    grid = torch.cartesian_prod(across, up)
    with torch.no_grad():
        density = torch.softmax(-pipeline.model(grid), 0).reshape(421, 261).T
    figure, axes = plt.subplots(1, 3, figsize=(8, 1.9), sharex=True, sharey=True)
    axes[0].plot(*data.T, ".", color="dimgrey", ms=1.5)
    axes[1].plot(*samples.T, ".", color="tab:blue", ms=1.5)
    axes[2].pcolormesh(across, up, density, cmap="magma", rasterized=True)
    for axis, title in zip(axes, ("data", "samples", "learned density"), strict=True):
        axis.set(title=title, xlim=(-1.6, 2.6), ylim=(-1.05, 1.55), aspect=1)
        axis.set_axis_off()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
