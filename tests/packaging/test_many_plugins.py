"""With a hundred plugin distributions installed, commands that list do little more for each.

The work is counted, for a clock says more of the machine; `benchmarks/startup.py` has the times.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

COUNT = 100
COUNTED = ("open", "import", "compile", "exec", "os.listdir", "os.scandir", "subprocess.Popen")
"""What Python tells audit hooks of: files, modules, parsing, code that is run, folders, processes."""
PROBE = """
import collections, contextlib, io, json, sys

counts = collections.Counter()
sys.addaudithook(lambda event, arguments: counts.update([event]))
from ebmkit.__main__ import run

out = io.StringIO()
with contextlib.redirect_stdout(out):
    code = run(sys.argv[1:])
found = dict(counts)
heavy = [m for m in sys.modules if m.partition(".")[0] in ("torch", "numpy", "attr", "pluggy")]
plugins = [m for m in sys.modules if m.startswith(("ebmkit_", "many_"))]
print(json.dumps([code, out.getvalue(), found, heavy, plugins]))
"""
SOURCE = '''
raise RuntimeError("imported")


class Small:
    """Small sampler {}."""
'''


@pytest.fixture
def work(
    install: Any, python: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Counts what a command does with so many distributions, which are added to those there were."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    made = 0

    def call(total: int, *words: str) -> dict[str, Any]:
        nonlocal made
        for i in range(made, total):
            entry = {"ebmkit.samplers": {f"many-{i}": f"many_{i}.sampler:Small"}}
            modules = {f"many_{i}/__init__.py": "", f"many_{i}/sampler.py": SOURCE.format(i)}
            install(f"many-{i}", entry, modules, requires=["ebmkit-core>=1,<2"])
        made = total
        done = python("-c", PROBE, *words)
        assert (done.returncode, done.stderr) == (0, "")
        code, out, counts, heavy, plugins = json.loads(done.stdout)
        assert (code, heavy, plugins) == (0, [], [])
        return {"out": out} | {name: counts.get(name, 0) for name in COUNTED}

    return call


def test_a_listing_grows_by_the_same_few_files_for_each(work: Any) -> None:
    work(0, "list-plugins")  # bytecode is written once
    # From one on, for what the first one needs, as the reading of requirements, the others use too.
    totals = (1, 1 + COUNT // 2, 1 + COUNT // 2 * 2)
    few, half, all_of_them = (work(n, "list-plugins", "--long") for n in totals)
    rows = [line.split("\t") for line in all_of_them.pop("out").splitlines()]
    mine = {row[1]: row[2:6] for row in rows if row[1].startswith("many-")}
    summaries = {
        f"many-{i}": [f"many-{i}", "1.0", "ok", f"Small sampler {i}."] for i in range(totals[-1])
    }
    assert mine == summaries
    for name in COUNTED:
        first, second = half[name] - few[name], all_of_them[name] - half[name]
        assert abs(second - first) <= 2, name
        # The metadata, the entry points twice and the source; the package's folder.
        assert second <= {"open": 4, "os.listdir": 1}.get(name, 0) * COUNT // 2 + 2, name


def test_a_part_is_described_without_reading_those_of_others(work: Any) -> None:
    work(0, "describe", "sampler", "langevin")
    few, all_of_them = (work(n, "describe", "sampler", "langevin") for n in (1, 1 + COUNT))
    assert all_of_them["out"] == few["out"]
    # Whose a name is stands in the metadata of all; their sources stay closed.
    assert all_of_them["open"] - few["open"] <= 3 * COUNT + 2
    for name in ("compile", "exec", "import", "os.listdir"):
        assert all_of_them[name] == few[name], name
