"""Arms in processes of their own that take turns: paired blocks, their ratios, and the machine's name.

Libraries that keep thread pools disturb each other within one process, and torch's and XLA's pools
do. Here every arm has its own process, pinned to the same cores with as many threads; all but one
wait on a pipe. Between two turns lies a pause, in which threads that wait actively go to sleep.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Numbers = np.ndarray[Any, np.dtype[Any]]
PAUSE = 0.05
"""Seconds between two turns."""


class Spec(NamedTuple):
    """How to build an arm."""

    builder: str
    """``module:function``, called with the arrays and the options in the arm's process."""
    options: dict[str, Any]
    torch: bool = True
    """Whether the arm uses torch."""


def cores(threads: int) -> list[int]:
    """The first cores that this process may use."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if allowed and len(allowed) < threads:
        raise SystemExit(f"{threads} threads need as many cores, and {len(allowed)} may be used")
    return allowed[:threads] or list(range(threads))


class Worker:
    """A process that holds one arm."""

    def __init__(
        self,
        name: str,
        spec: Spec,
        arrays: Path,
        *,
        threads: int,
        warm: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        wanted = {
            "builder": spec.builder,
            "options": spec.options,
            "arrays": str(arrays),
            "cores": cores(threads),
            "torch_threads": threads if spec.torch else None,
            "warm": warm,
        }
        counts = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
        )
        script = Path(__file__).with_name("_sampling_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **counts, **(environment or {})},
        )

    def ready(self) -> dict[str, str | None] | None:
        """Wait until the arm is built and warm; the versions in it, or None where it is absent."""
        answer = self._answer()
        versions: dict[str, str | None] | None = answer.get("versions")
        return versions

    def run(self, seed: int, *, save: Path | None = None) -> float:
        """Seconds of one run; its outcome is kept in ``save``."""
        assert self._process.stdin is not None
        request = {"seed": seed, "save": None if save is None else str(save)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: the arm's process ended; what it said is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Arms:
    """The arms of one work, all there at once; those whose library is missing are left out."""

    def __init__(
        self,
        specs: Mapping[str, Spec],
        arrays: Mapping[str, Numbers],
        *,
        threads: int,
        together: bool = False,
    ) -> None:
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        stored = self.folder / "arrays.npz"
        store(stored, arrays)
        self.workers: dict[str, Worker] = {}
        self.versions: dict[str, str] = {}
        for name, spec in specs.items():
            self.workers[name] = worker = Worker(name, spec, stored, threads=threads)
            self._stack.callback(worker.close)
            # On few cores one after the other, so that no arm gets ready in a crowd.
            if not together:
                self._await(name, worker)
        for name, worker in list(self.workers.items()) if together else ():
            self._await(name, worker)

    def _await(self, name: str, worker: Worker) -> None:
        versions = worker.ready()
        if versions is None:
            del self.workers[name]
        else:
            self.versions |= {k: v for k, v in versions.items() if v is not None}

    def __enter__(self) -> Arms:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def outcome(self, name: str, seed: int) -> tuple[float, Numbers]:
        """Seconds and outcome of one run of an arm."""
        time.sleep(PAUSE)
        saved = self.folder / "outcome.npy"
        seconds = self.workers[name].run(seed, save=saved)
        found: Numbers = np.load(saved)
        return seconds, found

    def blocks(self, count: int) -> dict[str, list[float]]:
        """Seconds of each arm in each block; every other block takes the arms in reverse."""
        times: dict[str, list[float]] = {name: [] for name in self.workers}
        for seed, names in enumerate(in_turn(self.workers, count), start=1):
            for name in names:
                time.sleep(PAUSE)
                times[name].append(self.workers[name].run(seed))
        return times


def store(path: Path, arrays: Mapping[str, Numbers]) -> None:
    """Where a worker finds the arrays that its arm is built from."""
    np.savez(path, **arrays)  # type: ignore[arg-type]


def in_turn(names: Sequence[str] | Mapping[str, Any], count: int) -> list[list[str]]:
    """The order of the arms in each of so many blocks."""
    forward = list(names)
    return [forward if block % 2 else forward[::-1] for block in range(count)]


class Quartiles(NamedTuple):
    """A median with its quartiles."""

    median: float
    lower: float
    upper: float

    def __format__(self, digits: str) -> str:
        return f"{self.median:{digits}} ({self.lower:{digits}}–{self.upper:{digits}})"


def quartiles(values: Sequence[float]) -> Quartiles:
    if len(values) == 1:
        return Quartiles(*[values[0]] * 3)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(median, lower, upper)


def ratios(of: Sequence[float], to: Sequence[float]) -> Quartiles:
    """Quartiles of the ratios of numbers of the same blocks."""
    return quartiles([a / b for a, b in zip(of, to, strict=True)])


def machine(threads: int, load: float | None, versions: Mapping[str, str]) -> str:
    """One line on what the numbers were measured with; ``load`` is the average at the start."""
    said = dict(
        line.split(":", 1)
        for line in _read("/proc/cpuinfo").split("\n\n")[0].splitlines()
        if ":" in line
    )
    names = {key.strip(): value.strip() for key, value in said.items()}
    cpu = names.get("model name", platform.processor() or platform.machine())
    sets = [s for s in ("avx2", "avx512f") if s in names.get("flags", "").split()]
    known = ", ".join(f"{name} {value}" for name, value in versions.items())
    busy = "" if load is None else f", load average at the start {load:.1f}"
    return (
        f"{cpu} {'/'.join(sets)}, {os.cpu_count()} cores of which each arm may use {threads}, as many "
        f"threads{busy}; {platform.system()}, Python {platform.python_version()}, {known}"
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def cold_seconds(spec: Spec, arrays: Path, *, threads: int) -> float:
    """Seconds of an arm's first run in a fresh process whose compiler has nothing cached."""
    with tempfile.TemporaryDirectory() as cache:
        worker = Worker(
            "cold",
            spec,
            arrays,
            threads=threads,
            warm=False,
            environment={"TORCHINDUCTOR_CACHE_DIR": cache},
        )
        try:
            worker.ready()
            time.sleep(PAUSE)
            return worker.run(1)
        finally:
            worker.close()


Check = Callable[[Numbers], Mapping[str, Numbers]]
"""Quantities of each chain, by name, whose means the arms must agree in."""


def agree(arms: Arms, check: Check, *, reference: str, without: Sequence[str] = ()) -> None:
    """Refuse to time arms that do not sample the same: five standard errors off the reference."""
    expected = check(arms.outcome(reference, 1000)[1])
    for seed, name in enumerate(set(arms.workers) - {reference, *without}):
        for what, values in check(arms.outcome(name, seed)[1]).items():
            other = expected[what]
            off = values.mean() - other.mean()
            error = float(
                np.hypot(values.std() / len(values) ** 0.5, other.std() / len(other) ** 0.5)
            )
            if not abs(off) <= 5 * error:
                raise SystemExit(
                    f"{name}: mean {what} {values.mean():.4g}, and {reference} has {other.mean():.4g}, "
                    f"{abs(off) / error:.1f} standard errors away: these arms do not do the same work"
                )
