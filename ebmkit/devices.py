"""Which device a run is on, and how its memory is kept."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

import torch

from ebmkit.errors import DeviceError

_MOST_LEARNED_FROM = 2**25 - 2**13
"""Bytes of the largest block that glibc learns from: 32 MiB, less its own words and the alignment."""

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_EXACT = (":4096:8", ":16:8")


def find_device(name: str, *, deterministic: bool = False) -> torch.device:
    """The device called ``name``; "auto" is the first of cuda, mps, cpu that is there.

    Raises:
        DeviceError: there is no such device on this machine, or it is to be ``deterministic`` and the
            environment does not tell cuBLAS so, which reads that once.
    """
    device = _found(name)
    if deterministic and device.type == "cuda" and os.environ.get(_CUBLAS) not in _CUBLAS_EXACT:
        raise DeviceError(
            f"{name}: training.deterministic needs {_CUBLAS}={_CUBLAS_EXACT[0]} in the environment, or "
            "cuBLAS may give other bits each time"
        )
    return device


def _found(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(
            f"{name!r} is no device; expected auto, cpu, cuda, cuda:i or mps"
        ) from None
    here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here += ["mps"] * torch.backends.mps.is_available()
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if (device.index or 0) >= count.get(device.type, 0):
        raise DeviceError(
            f"there is no device {name!r} on this machine (there are: {', '.join(here)})"
        )
    return device


def own_device(device: torch.device, local_rank: int) -> torch.device:
    """The device of one of several processes on a machine: each has a CUDA device of its own.

    Raises:
        DeviceError: there are not as many, or the processes cannot speak to each other from there.
    """
    if device.type == "mps":
        raise DeviceError("several processes cannot share mps; set it to cpu")
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise DeviceError(
            f"{device}: all processes of this machine would be there; set it to cuda, which gives each "
            "its own"
        )
    if local_rank >= torch.cuda.device_count():
        raise DeviceError(
            f"process {local_rank} of this machine finds {torch.cuda.device_count()} CUDA devices; "
            "start at most as many processes, or set it to cpu"
        )
    return torch.device("cuda", local_rank)


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """For a while torch takes only algorithms that give the same bits each time, where that is wanted.

    Raises:
        DeviceError: there was none for an operation.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    only_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise DeviceError(
            f"{str(error).partition(',')[0]}, as training.deterministic asks for; set it to false, or "
            "have the model, the loss or the sampler do without that operation"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warning)


@functools.cache
def keep_freed_memory() -> None:
    """From now on this process keeps memory that is freed, up to 64 MiB, for what is computed next.

    glibc gives what is free at the end of its memory back to the system, by default all beyond 128 KiB,
    and learns to keep more from the largest block of up to 32 MiB that it has seen freed: twice its
    size. Operations on CPUs free and ask for the same memory step after step; given back, each of its
    pages must be made anew each time, which takes as long as a small network's step. Whether that
    happens depends on what lies above, and so differs from process to process. To learn from the block
    costs nothing, for nobody writes to it. Other C libraries go on as before.
    """
    torch.empty(_MOST_LEARNED_FROM, dtype=torch.uint8)
