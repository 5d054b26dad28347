"""Progress where nobody watches: ten lines, whatever the environment says of colours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ebmkit_reporting.progress import Progress

from ebmkit.cli._output import progress_bar


@pytest.fixture(autouse=True)
def coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook's kernel, and on many a machine that tests changes."""
    monkeypatch.setenv("FORCE_COLOR", "1")


def test_ten_lines_without_a_terminal(capsys: Any) -> None:
    hook = Progress()
    run: Any = SimpleNamespace(total_steps=25, step=0, ending=False)
    hook.run_start(run)
    for run.step in range(1, 26):
        run.ending = run.step == 25
        hook.step_end(run, {"loss": torch.tensor(0.5)})
    hook.run_end(run, None)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "step 2/25  loss 0.5" and said[-1] == "step 25/25  loss 0.5"
    assert len(said) == 13


def test_no_bar_without_a_terminal(capsys: Any) -> None:
    with progress_bar("sampling") as told:
        assert told is None
    assert capsys.readouterr().err == ""
