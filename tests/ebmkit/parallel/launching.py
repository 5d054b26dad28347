"""Commands under torchrun, each process with one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def torchrun(*arguments: str, cwd: Path, restarts: int = 0) -> subprocess.Popen[str]:
    """Two processes, started; what they say is one text."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", str(restarts), *arguments]
    surroundings = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "",
    }
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(started: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str]:
    """How a command ended, and what it said."""
    try:
        said, _ = started.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        started.terminate()  # torchrun takes its processes with it
        said, _ = started.communicate(timeout=60)
        raise AssertionError(said) from error
    return started.returncode, said


def process_of(started: subprocess.Popen[str], rank: int) -> int:
    """The number of the process with a rank, as the system has it."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if parent == started.pid and f"RANK={rank}".encode() in words:
            return int(path.name)
    raise LookupError(f"no process of rank {rank}")
