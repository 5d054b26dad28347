from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .launching import ended, torchrun
from .small_runs import cut_after

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave that run all checks of worker.py."""
    folder = tmp_path_factory.mktemp("processes")
    # With one thread, as the two have: bits depend on their number.
    alone = [sys.executable, str(HERE / "small_runs.py"), str(folder / "one")]
    subprocess.run(alone, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    cut_after(folder / "one", folder / "one-cut", 6)
    code, said = ended(torchrun(str(HERE / "worker.py"), str(folder), cwd=folder))
    assert code == 0, said
    assert "Warning" not in said, said
    return folder
