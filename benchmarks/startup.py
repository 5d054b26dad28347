"""Start-up: `ebmkit list-plugins` against `pytest --version` in the same environment, in turn.

With `--distributions 100` both see a hundred small third-party distributions besides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make_distributions(folder: Path, count: int) -> None:
    """Small distributions, each with a module and one entry point, as a plugin author's would be."""
    for i in range(count):
        info = folder / f"ebmkit_small_{i}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: ebmkit-small-{i}\nVersion: 1.0\n"
            "Summary: A small plugin.\nRequires-Dist: ebmkit-core>=1,<2\n"
        )
        (info / "entry_points.txt").write_text(
            f"[ebmkit.samplers]\nsmall-{i} = ebmkit_small_{i}.sampler:Small\n"
        )
        package = folder / f"ebmkit_small_{i}"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "sampler.py").write_text(f'class Small:\n    """Small sampler {i}."""\n')


def seconds(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--distributions", type=int, nargs="*", default=[0, 100])
    arguments = parser.parse_args()
    scripts = Path(sys.executable).parent
    ours, theirs = [str(scripts / "ebmkit"), "list-plugins"], [str(scripts / "pytest"), "--version"]
    plain: list[float] = []
    for count in arguments.distributions:
        with tempfile.TemporaryDirectory() as folder:
            make_distributions(Path(folder), count)
            environment = dict(os.environ)
            if count:
                environment["PYTHONPATH"] = folder
            for command in (ours, theirs):
                seconds(command, environment)
            pairs = [
                (seconds(ours, environment), seconds(theirs, environment))
                for _ in range(arguments.runs)
            ]
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        plain = plain or [b]
        print(
            f"{count:4d} third-party distributions: list-plugins {1e3 * a:.0f} ms, "
            f"pytest --version {1e3 * b:.0f} ms, ratio {a / b:.2f} "
            f"(to pytest without them {a / plain[0]:.2f}); medians of {arguments.runs} runs in turn"
        )


if __name__ == "__main__":
    main()
