"""How fast chains run, side by side with the peers that are installed, JAX and loops by hand.

    python benchmarks/sampling.py                      everything, with a table and a picture
    python benchmarks/sampling.py langevin ess         some of the sections
    taskset -c 1 python benchmarks/sampling.py --threads 1 --blocks 7

langevin: N Langevin chains of S steps on a SiLU network, by ebmkit (its own MLP and a user's module),
torchebm, ebm, an eager loop, the gradient alone, ten steps compiled by hand, JAX's scan, blackjax.
cuda: the same on a CUDA device, where there is one, and with a convolutional network of ten million
weights.
ess: effective samples a second of MALA, HMC and NUTS, ebmkit against blackjax.
training: steps of persistent contrastive divergence, ebmkit against torchebm.
cold: 2,000 steps in a fresh process with an empty compiler cache, ``compile="auto"`` over ``"off"``.

Each arm has a process of its own, pinned to the same cores with as many threads, and is warm; the
arms take turns in blocks, every other block in reverse; times are medians over the blocks, ratios
medians of the blocks' ratios with their quartiles. Before anything is timed each arm must have
sampled the same distribution (five standard errors), or be seen to learn. Peers that are not
installed are left out: torchebm, ebmkit==0.16.0 (another project's, imported as ebm), jax, blackjax.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import _sampling_ess as ess
import _sampling_langevin as langevin
import _sampling_network as network
import _sampling_training as training
from _sampling_harness import Arms, Quartiles, agree, cold_seconds, in_turn, machine, ratios, store
from _sampling_report import Report, bars, table

COLD_STEPS = 2000


def run_langevin(report: Report, blocks: int, threads: int) -> None:
    for work in langevin.WORKS:
        stored = network.arrays(work, spread=langevin.SPREAD)
        with Arms(langevin.specs(work), stored, threads=threads) as arms:
            agree(
                arms,
                network.quantities(stored),
                reference=langevin.REFERENCE,
                without=[langevin.GRADIENT],
            )
            times = arms.blocks(blocks)
            report.versions |= arms.versions
        rows = [
            [name, f"{1e3 * statistics.median(t):.1f} ms", f"{ratios(t, times[langevin.OURS]):.2f}"]
            for name, t in times.items()
        ]
        report.section(f"Langevin: {work}", table(["arm", "time", "over ebmkit's"], rows))
        heights = {name: 1e3 * statistics.median(t) for name, t in times.items()}
        report.panel(f"Langevin, {work}".replace(", ", "\n", 2), "ms", heights)


def run_cuda(report: Report, blocks: int, threads: int) -> None:
    import torch

    if not torch.cuda.is_available():
        report.section("CUDA", "There is no CUDA device here, so nothing of this was run.")
        return
    for work in (*langevin.WORKS, langevin.IMAGES):
        if isinstance(work, network.Images):
            stored = network.image_arrays(work, spread=langevin.SPREAD)
            check = network.image_quantities(stored, "cuda")
        else:
            stored = network.arrays(work, spread=langevin.SPREAD)
            check = network.quantities(stored)
        untouched = [langevin.GRADIENT, langevin.RECORDED]
        with Arms(langevin.cuda_specs(work), stored, threads=threads, together=True) as arms:
            agree(arms, check, reference=langevin.REFERENCE, without=untouched)
            times = arms.blocks(blocks)
            report.versions |= arms.versions
        rows = [
            [
                *[name, f"{1e3 * statistics.median(t):.2f} ms"],
                *[f"{ratios(t, times[of]):.2f}" for of in (langevin.OURS, langevin.GRADIENT)],
            ]
            for name, t in times.items()
        ]
        titles = ["arm", "time", "over ebmkit's", "over the gradient's"]
        device = torch.cuda.get_device_name()
        report.section(f"Langevin on {device}: {work}", table(titles, rows))
        heights = {name: 1e3 * statistics.median(t) for name, t in times.items()}
        report.panel(f"CUDA, {work}".replace(", ", "\n", 2), "ms", heights)


def run_ess(report: Report, blocks: int, threads: int) -> None:
    rows = []
    for target in dict.fromkeys(work.target for work in ess.WORKS):
        heights = {}
        for work in (w for w in ess.WORKS if w.target == target):
            stored = ess.arrays(work)
            with Arms(ess.specs(work), stored, threads=threads) as arms:
                times: dict[str, list[float]] = {name: [] for name in arms.workers}
                sizes: dict[str, list[float]] = {name: [] for name in arms.workers}
                for seed, names in enumerate(in_turn(arms.workers, blocks), start=1):
                    for name in names:
                        seconds, points = arms.outcome(name, seed)
                        times[name].append(seconds)
                        sizes[name].append(ess.judge(work, stored, points, name))
                report.versions |= arms.versions
            # The sizes scatter far more than they differ from block to block: their mean goes by all.
            size = {name: statistics.fmean(s) for name, s in sizes.items()}
            rates = {name: [size[name] / s for s in t] for name, t in times.items()}
            for name, rate in rates.items():
                time, median = statistics.median(times[name]), statistics.median(rate)
                rows.append(
                    [
                        *[str(work), name, f"{1e3 * time:.1f} ms", f"{size[name]:,.0f}"],
                        *[f"{median:,.0f}", f"{ratios(rate, rates[ess.OURS]):.2f}"],
                    ]
                )
                heights[f"{work.sampler}, {name}"] = median
        report.panel(f"{target}: effective samples a second", "1/s", heights, logarithmic=True)
    titles = ["work", "arm", "time", "effective samples", "a second", "over ebmkit's"]
    report.section(f"Effective samples a second, {ess.CHAINS} chains", table(titles, rows))


def run_training(report: Report, blocks: int, threads: int) -> None:
    steps = 50
    with Arms(training.specs(steps), training.arrays(), threads=threads) as arms:
        training.check(arms)
        times = arms.blocks(blocks)
        report.versions |= arms.versions
    rows = [
        [name, f"{steps / statistics.median(t):.0f}", f"{ratios(t, times[training.OURS]):.2f}"]
        for name, t in times.items()
    ]
    title = (
        f"Training: PCD-{training.K_STEPS} on two moons, MLP {training.NETWORK.width}×"
        f"{training.NETWORK.depth}, batch {training.BATCH}, {training.SLOTS} slots"
    )
    report.section(title, table(["arm", "steps a second", "time over ebmkit's"], rows))
    heights = {name: steps / statistics.median(t) for name, t in times.items()}
    report.panel("PCD training", "steps / s", heights)


def run_cold(report: Report, blocks: int, threads: int) -> None:
    rows = []
    for work in langevin.WORKS:
        long = work._replace(steps=COLD_STEPS)
        specs = langevin.specs(long)
        arms = {"auto": specs["ebmkit, auto"], "off": specs["ebmkit, eager"]}
        times: dict[str, list[float]] = {name: [] for name in arms}
        with TemporaryDirectory() as folder:
            stored = Path(folder, "arrays.npz")
            store(stored, network.arrays(long, spread=langevin.SPREAD))
            for names in in_turn(arms, blocks):
                for name in names:
                    times[name].append(cold_seconds(arms[name], stored, threads=threads))
        ratio: Quartiles = ratios(times["auto"], times["off"])
        shown = [f"{statistics.median(times[name]):.2f} s" for name in arms]
        rows.append([str(long), *shown, f"{ratio:.2f}"])
    report.section("Cold start", table(["work", "auto", "off", "auto over off"], rows))


SECTIONS: dict[str, Callable[[Report, int, int], None]] = {
    "langevin": run_langevin,
    "cuda": run_cuda,
    "ess": run_ess,
    "training": run_training,
    "cold": run_cold,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--blocks", type=int, default=15, help="turns of each arm")
    parser.add_argument("--cold-blocks", type=int, default=5, help="fresh processes of each arm")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of each arm")
    parser.add_argument("--out", type=Path, default=Path("runs/sampling"), help="folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    report = Report(arguments.out, partial(machine, arguments.threads, load))
    for name in arguments.sections or SECTIONS:
        blocks = arguments.cold_blocks if name == "cold" else arguments.blocks
        SECTIONS[name](report, blocks, arguments.threads)
        bars(report)


if __name__ == "__main__":
    main()
