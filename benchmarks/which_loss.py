"""Train by every loss on every data set, and one recipe under every tip; write tables and pictures.

The learning rate of each loss on each data set is the one of three that does best on a seed that is in
no figure. Then each is trained on five seeds, and the plain recipe too under each setting of each tip.
Figures are kept run by run in which_loss.json, and a second start does what is missing; tables and
pictures are made of it. Runs are processes of one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _which_loss_cases import (
    BASELINE,
    DATA,
    LEARNING_RATES,
    LOSSES,
    SEEDS,
    TIP_RATES,
    TIPS,
    TRIAL_SEED,
    Table,
    digest,
    loss_case,
    tip_case,
)
from _which_loss_report import write_report

from ebmkit.files import write_atomically

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "measurements" / "which_loss.json"


class Case(NamedTuple):
    """One process's work."""

    does: str
    about: dict[str, Any]
    """What tells it from the others of its kind."""
    spec: Table
    noise: float | None = None

    @property
    def key(self) -> str:
        return " / ".join([self.does, *(str(value) for value in self.about.values())])


class Results:
    """Figures by case, in a file that is whole at every moment."""

    def __init__(self, path: Path, wine: Path) -> None:
        self.path, self.wine = path, wine
        self.cases: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.cases = json.loads(path.read_text(encoding="utf-8"))["cases"]

    def figures(self, case: Case) -> dict[str, Any] | None:
        """Those of this case under just these settings."""
        known = self.cases.get(case.key)
        return known["figures"] if known and known["digest"] == digest(case.spec) else None

    def take(self, case: Case, figures: dict[str, Any]) -> None:
        self.cases[case.key] = {
            "does": case.does,
            **case.about,
            "digest": digest(case.spec),
            "figures": figures,
        }
        self._write()

    def _write(self) -> None:
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        content = {"machine": {**versions, "cores": os.cpu_count()}, "cases": self.cases}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
        write_atomically(self.path, f"{text}\n".encode())

    def only(self, cases: list[Case]) -> None:
        """Leave out all others: those of settings, or of learning rates, that are no more."""
        self.cases = {case.key: self.cases[case.key] for case in cases}
        self._write()

    def run(self, case: Case) -> dict[str, Any]:
        """The figures of a process of its own."""
        spec = json.loads(json.dumps(case.spec))
        for one in spec.values() if case.does == "pace" else [spec]:
            if one["dataset"]["use"] == "array":
                one["dataset"]["path"] = str(self.wine)
        asked = json.dumps({"does": case.does, "spec": spec, "noise": case.noise})
        worker = [sys.executable, str(HERE / "_which_loss_worker.py")]
        done = subprocess.run(worker, input=asked, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{case.key}: exit code {done.returncode}\n{done.stderr}")
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures


def trials() -> Iterator[Case]:
    for data in DATA:
        for loss in LOSSES:
            for lr in LEARNING_RATES:
                about = {"data": data, "loss": loss, "lr": lr, "seed": TRIAL_SEED}
                yield Case("train", about, loss_case(data, loss, lr, TRIAL_SEED), noise_of(data))


def losses(results: Results) -> Iterator[Case]:
    """Every loss at its own learning rate, and the baseline, on every seed."""
    for data in DATA:
        for seed in SEEDS:
            for loss in LOSSES:
                lr = best_rate(results, data, loss)
                about = {"data": data, "loss": loss, "lr": lr, "seed": seed}
                yield Case("train", about, loss_case(data, loss, lr, seed), noise_of(data))
            about = {"data": data, "loss": BASELINE, "seed": seed}
            yield Case("baseline", about, loss_case(data, "SM", 1e-3, seed), noise_of(data))


def tips() -> Iterator[Case]:
    for seed in SEEDS:
        for tip, settings in TIPS.items():
            for setting in settings:
                for lr in TIP_RATES:
                    about = {"tip": tip, "setting": setting, "lr": lr, "seed": seed}
                    yield Case("tip", about, tip_case(tip, setting, lr, seed))


def paces(results: Results) -> Iterator[Case]:
    for data in DATA:
        rates = {loss: best_rate(results, data, loss) for loss in LOSSES}
        specs = {loss: loss_case(data, loss, lr, TRIAL_SEED) for loss, lr in rates.items()}
        yield Case("pace", {"data": data}, specs)


def noise_of(data: str) -> float | None:
    noise: float | None = DATA[data].get("training", {}).get("data_noise")
    return noise


def best_rate(results: Results, data: str, loss: str) -> float:
    """The learning rate whose trial has the least KL divergence, or test loss."""
    found = {}
    for lr in LEARNING_RATES:
        about = {"data": data, "loss": loss, "lr": lr, "seed": TRIAL_SEED}
        figures = results.figures(Case("train", about, loss_case(data, loss, lr, TRIAL_SEED)))
        if figures and "reason" not in figures:
            found[lr] = figures["kl_nats"] if "kl_nats" in figures else figures["test_loss"]
    if not found:
        raise SystemExit(f"{loss} on {data}: no learning rate of {LEARNING_RATES} trains")
    return min(found, key=lambda lr: found[lr])


def do(results: Results, cases: list[Case], workers: int) -> None:
    missing = [case for case in cases if results.figures(case) is None]
    print(f"{len(cases)} runs, {len(cases) - len(missing)} of them known", flush=True)
    started = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(results.run, case): case for case in missing}
        try:
            for number, future in enumerate(as_completed(running), 1):
                results.take(running[future], future.result())
                seconds = time.monotonic() - started
                line = f"[{number}/{len(missing)}, {seconds:.0f} s] {running[future].key}"
                print(f"{line}: {future.result()}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wine", type=Path, required=True, help="winequality-red.csv")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the figures")
    parser.add_argument("--report", action="store_true", help="only make tables and pictures anew")
    arguments = parser.parse_args()
    if not arguments.wine.is_file():
        parser.error(f"--wine: expected a csv file, {arguments.wine} is none")
    results = Results(arguments.results, arguments.wine.resolve())
    if not arguments.report:
        do(results, first := list(trials()), arguments.workers)
        do(results, trained := list(losses(results)), arguments.workers)
        do(results, tipped := list(tips()), arguments.workers)
        # Times are compared, so nothing else runs beside them.
        do(results, timed := list(paces(results)), 1)
        results.only([*first, *trained, *tipped, *timed])
    for path in write_report(arguments.results):
        print(path)


if __name__ == "__main__":
    main()
