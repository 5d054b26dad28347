from __future__ import annotations

from pathlib import Path

import pytest

import ebmkit
from ebmkit.hooks import Hooks

from .launching import ended, torchrun
from .runs import SPEC, cut_after

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave that run all checks of worker.py."""
    folder = tmp_path_factory.mktemp("processes")
    ebmkit.compose(SPEC).fit(out=folder / "one", hooks=Hooks({}))
    cut_after(folder / "one", folder / "one-cut", 6)
    code, said = ended(torchrun(str(HERE / "worker.py"), str(folder), cwd=folder))
    assert code == 0, said
    assert "Warning" not in said, said
    return folder
