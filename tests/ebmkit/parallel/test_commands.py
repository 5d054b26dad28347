"""`ebmkit train` under torchrun: what becomes of a run when a process is killed, ended or diverges."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from ebmkit import checkpoint
from ebmkit.spec import to_toml

from .launching import ended, process_of, torchrun
from .small_runs import LONGER, STEPS, same_tree


def train(folder: Path, *arguments: str, restarts: int = 0) -> subprocess.Popen[str]:
    (folder / "spec.toml").write_text(to_toml(LONGER))
    words = [
        "-m",
        "ebmkit",
        "train",
        "spec.toml",
        "--no-plugin",
        "ebmkit-core:pictures",
        *arguments,
    ]
    return torchrun(*words, cwd=folder, restarts=restarts)


def records(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines]


def wait_for(started: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until a run has recorded a step."""
    until = time.monotonic() + 120
    while not any(record["step"] >= step for record in records(run)):
        assert started.poll() is None, started.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.01)


def last(run: Path) -> Any:
    return checkpoint.read(sorted((run / "checkpoints").iterdir())[-1])


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "status.json").read_text())
    return found


def test_a_killed_process_is_started_anew_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    started = train(tmp_path, restarts=1)
    run = tmp_path / "runs" / "spec"
    wait_for(started, run, 24)
    os.kill(process_of(started, 1), signal.SIGKILL)
    code, said = ended(started)
    assert code == 0, said
    assert said.count("going on from the last checkpoint") == 1, said
    assert [path.name for path in run.parent.iterdir()] == ["spec"]
    assert status(run)["status"] == "finished"
    assert status(run)["step"] == STEPS
    assert [record["step"] for record in records(run)] == list(range(2, STEPS + 1, 2))
    one, other = last(run), last(folder / "calm")
    assert one["step"] == STEPS
    # torch's own generators, which nobody draws from here, are seeded by each process.
    for tree in (one, other):
        for name in ("process", "made_by", "hooks"):
            for part in (tree, *tree["others"]):
                part.pop(name, None)
    assert [name for name in one if not same_tree(one[name], other[name])] == []


def test_sigterm_ends_all_after_the_same_step(tmp_path: Path) -> None:
    started = train(tmp_path, "--out", "run")
    wait_for(started, tmp_path / "run", 12)
    started.send_signal(signal.SIGTERM)
    code, said = ended(started)
    assert code != 0
    run = tmp_path / "run"
    assert status(run)["status"] == "interrupted", said
    step = status(run)["step"]
    assert 12 <= step < STEPS
    assert last(run)["step"] == step
    assert len(last(run)["others"]) == 1
    assert said.count("to go on: ebmkit resume run") == 1, said


def test_a_rank_that_diverges_ends_all_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "import os, ebmkit, torch\n"
        "from ebmkit.__main__ import main\n"
        "from ebmkit.data import Feed\n"
        "draw = Feed.draw\n"
        "def odd(self):\n"
        "    batch = draw(self)\n"
        "    far = self.rank == 1 and os.path.exists('run/checkpoints/step-00000010.safetensors')\n"
        "    return batch._replace(x=batch.x * 1e30) if far else batch\n"
        "Feed.draw = odd\n"
        "main(['train', 'spec.toml', '--out', 'run'])\n"
    )
    (tmp_path / "spec.toml").write_text(to_toml(LONGER))
    began = time.monotonic()
    code, said = ended(torchrun("odd.py", cwd=tmp_path))
    assert time.monotonic() - began < 60
    assert code != 0
    assert "error: rank 1: " in said, said
    assert "Traceback" not in said.partition("torch/distributed")[0], said
    run = tmp_path / "run"
    assert status(run)["status"] == "diverged"
    assert "rank 1" in status(run)["reason"]
    assert last(run)["step"] % 10 == 0


ENDS_AT_ONCE = """
import sys

import torch
import torch.distributed as dist

from ebmkit.starting import started

with started():
    x = torch.zeros(3)
    sys.setswitchinterval(1000)  # threads that wait for Python get it only where it is let go of
    for _ in range(20):
        dist.all_gather([torch.empty_like(x), torch.empty_like(x)], x)
"""


def test_processes_that_end_right_after_an_exchange_end_well(tmp_path: Path) -> None:
    """Two tries, for without a pause two in three were aborted."""
    (tmp_path / "ends.py").write_text(ENDS_AT_ONCE)
    for _ in range(2):
        code, said = ended(torchrun("ends.py", cwd=tmp_path))
        assert code == 0, said
