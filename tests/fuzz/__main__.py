"""Spoilt inputs by the hundred thousand: ``python -m tests.fuzz --inputs 100000 spec csv``.

For each target: how many inputs were read, how many of them were good, the slowest, and how far the
process grew. An input that ends in a traceback, takes over 2 s or needs over 1 GiB is kept, and the
exit code is 1. ``--guided`` lets atheris choose the inputs by what code they reach.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from tests.fuzz.targets import TARGETS, FoundError, attempt

GIBIBYTE = 2**30


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most, for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="what was found")
    parser.add_argument("--most", type=int, default=20, help="inputs found before it ends")
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    given = parser.parse_args()
    if unknown := set(given.targets) - TARGETS.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    return given


def bound_memory() -> None:
    """Let the process grow by 1 GiB at most."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + GIBIBYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _grown() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def count(name: str, inputs: int, seconds: float, seed: int, keep: Path, most: int) -> int:
    """Read so many inputs; the number of those that did not end as they should."""
    target = TARGETS[name]
    warnings.simplefilter("ignore")
    ends: Counter[str] = Counter()
    slowest, found = 0.0, 0
    target.warm_up()
    before, began = _grown(), time.monotonic()
    bound_memory()
    read = 0
    for number in range(inputs):
        if time.monotonic() - began > seconds or found >= most:
            break
        data = target.spoilt(random.Random(f"{seed} {number}"))
        read += 1
        try:
            outcome = attempt(target, data)
        except FoundError as error:
            found += 1
            keep.mkdir(parents=True, exist_ok=True)
            path = keep / f"{name}-{seed}-{number}"
            path.write_bytes(data)
            print(f"{path}: {error}", flush=True)
            for line in traceback.format_exception(error.__cause__)[-3:]:
                print(f"  {line.rstrip()[-400:]}")
            continue
        ends["refused" if outcome.refused else "good"] += 1
        slowest = max(slowest, outcome.seconds)
    print(
        f"{name}: {read} inputs in {time.monotonic() - began:.0f} s, {ends['good']} good, "
        f"{ends['refused']} refused, {found} ended otherwise; slowest {slowest:.2f} s; "
        f"peak memory {_grown():.0f} MiB, {_grown() - before:.0f} MiB more than before",
        flush=True,
    )
    return found


def main() -> int:
    given = _arguments()
    names = given.targets or list(TARGETS)
    if given.guided:
        if importlib.util.find_spec("atheris") is None:
            print("atheris is not installed, so no inputs are chosen by coverage")
            return 0
        from tests.fuzz.guided import guide

        return guide(names, given.inputs, given.seed, given.keep)
    rest = (given.inputs, given.seconds, given.seed, given.keep, given.most)
    return int(sum(count(name, *rest) for name in names) > 0)


if __name__ == "__main__":
    sys.exit(main())
