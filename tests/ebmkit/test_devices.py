"""What a process's memory is told."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

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
