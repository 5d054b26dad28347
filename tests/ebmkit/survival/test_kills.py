"""Runs that are killed, at random and inside the writing of checkpoints, end as if they were not.

Twelve kills here; ``EBMKIT_KILLS=200`` is for the long run, of which a quarter is inside the writing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

KILLS = int(os.environ.get("EBMKIT_KILLS", "12"))


def test_killed_runs_end_as_undisturbed_ones(tmp_path: Path) -> None:
    injected = max(KILLS // 4, 6)
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(KILLS), str(injected), "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60 + 10 * KILLS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["unreadable"] == []
    assert found["others"] == []
    inside = {moment: n for moment, n in found["kills"].items() if moment != "at random"}
    assert sum(found["kills"].values()) == KILLS
    assert sum(inside.values()) == injected
    assert len(inside) == 6
