"""Runs the blocks of TorchEBM on the page for those who come from there, so that they stay true.

    python benchmarks/peer_blocks.py            epochs by the hundred cut to two
    python benchmarks/peer_blocks.py --whole    as they stand

Needs torchebm; the page is ``docs/coming-from/torchebm.md``, and its blocks share one namespace.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[1] / "docs" / "coming-from" / "torchebm.md"
_BLOCK = re.compile(
    r"^<!-- not run: needs torchebm, tried with ([\d.]+) -->\n```python\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks() -> list[tuple[str, int, str]]:
    """Of each block the version it was tried with, its line in the page, and its text."""
    text = PAGE.read_text(encoding="utf-8")
    return [(m[1], text.count("\n", 0, m.start(2)) + 1, m[2]) for m in _BLOCK.finditer(text)]


def main(whole: bool) -> int:
    """Run all of them; the exit code."""
    try:
        installed = version("torchebm")
    except PackageNotFoundError:
        print("torchebm is not installed: nothing was run")
        return 2
    module = ModuleType("page")
    sys.modules["page"] = module
    for tried, line, text in blocks():
        if tried != installed:
            print(f"line {line}: the page says {tried}, installed is {installed}")
            return 1
        if not whole:
            text = text.replace("range(100)", "range(2)")
        started = time.perf_counter()
        source = "\n" * (line - 1) + text
        exec(compile(source, str(PAGE), "exec"), module.__dict__)
        print(f"line {line}: ran in {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whole", action="store_true")
    sys.exit(main(parser.parse_args().whole))
