"""What a process's memory is told, and which algorithms a device takes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit.devices import find_device
from ebmkit.errors import DeviceError

ON_ITS_OWN = """
import ctypes
import sys

import torch

import ebmkit
from ebmkit.chains import run_chain


class Info(ctypes.Structure):
    _fields_ = [(str(i), ctypes.c_size_t) for i in range(10)]  # the fifth: bytes of blocks of their own


mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
if sys.argv[1] == "after chains":
    sampler = ebmkit.create("sampler", "langevin")
    model = ebmkit.create("model", "harmonic")
    run_chain(sampler, model, torch.zeros(2, 2), steps=1, generator=torch.Generator())
before = getattr(mallinfo(), "4")
block = torch.ones(4 * 2**20)
print(getattr(mallinfo(), "4") - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own way with memory")
def test_chains_keep_memory_that_steps_free() -> None:
    """A block of 16 MiB comes from memory that is kept, not from the system and back to it."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    found = {}
    for when in ("before chains", "after chains"):
        command = [sys.executable, "-c", ON_ITS_OWN, when]
        run = subprocess.run(command, check=True, capture_output=True, text=True, env=plain)
        found[when] = int(run.stdout)
    assert found["before chains"] >= 2**24
    assert found["after chains"] == 0


class Put(nn.Module):
    """Energies by an operation that torch has no deterministic way for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.are_deterministic_algorithms_enabled())
        if len(self.seen) > 3:
            x = x.put(torch.tensor([0]), x.new_zeros(1))
        return self.scale * x.square().sum(1)


def composed(**training: Any) -> ebmkit.Pipeline:
    return ebmkit.compose(
        {
            "model": Put(),
            "dataset": {"use": "two-moons"},
            "loss": {
                "use": "cd",
                "k_steps": 1,
                "sampler": {"use": "langevin", "step_size": 0.01},
            },
            "training": {"steps": 2, "batch_size": 4, "device": "cpu", **training},
        }
    )


def test_a_deterministic_run_takes_no_other_algorithms_and_says_where_there_is_none() -> None:
    pipeline = composed(deterministic=True)
    with pytest.raises(
        DeviceError, match=r"put_? does not have a deterministic .*training\.determ"
    ):
        pipeline.fit()
    composing, *training = pipeline.trainer.model.seen
    assert all(training) and not composing
    assert not torch.are_deterministic_algorithms_enabled()
    pipeline = composed()
    pipeline.train_step()
    assert not any(pipeline.trainer.model.seen)


def test_the_callers_own_setting_comes_back() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(DeviceError):
            composed(deterministic=True).fit()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_cublas_has_to_be_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for name in ("cuda", "cuda:0", "auto"):
        assert find_device(name).type == "cuda"
        with pytest.raises(DeviceError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"):
            find_device(name, deterministic=True)
    assert find_device("cpu", deterministic=True).type == "cpu"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert find_device("cuda", deterministic=True).type == "cuda"
