"""Processes that torchrun starts, and how they find each other."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous


def launch() -> str:
    """The name of the launch of torchrun that this process is part of, the same where its processes
    were started anew; empty elsewhere."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"{socket.gethostname()}:{os.getppid()}" if name == "none" else name


_LEAVE = 0.1
"""Seconds in which threads that have nothing left to do end."""


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def started() -> Iterator[None]:
    """The process group of processes that torchrun started, ended at the end; nothing elsewhere.

    On CPUs gradients are exchanged by gloo and on CUDA devices by nccl.
    """
    if not launch() or dist.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store, rank, size = next(rendezvous("env://"))
    name = _agreed_name(store, rank, size)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=PrefixStore(name, store),
        rank=rank,
        world_size=size,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
        # Threads of gloo's drop the tensors of the last exchange, for which they wait for Python; one
        # that still waits when Python ends brings the process down.
        time.sleep(_LEAVE)


def _agreed_name(store: Store, rank: int, size: int) -> str:
    """A name that these processes have for themselves, and none has had before.

    torchrun's store outlives its processes: those that are started anew would read there where to find
    the ones that are gone. The first process proposes a name and echoes what each of the others has
    written under it, by which they know that it was proposed to them.
    """
    mine = uuid.uuid4().hex
    if rank == 0:
        store.set("ebmkit/start", mine)
        for other in range(1, size):
            store.set(f"{mine}/echo/{other}", store.get(f"{mine}/call/{other}").decode())
        return mine
    name = ""
    while True:
        proposed = store.get("ebmkit/start").decode()
        if proposed != name:
            name = proposed
            store.set(f"{name}/call/{rank}", mine)
        echo = f"{name}/echo/{rank}"
        if store.check([echo]) and store.get(echo).decode() == mine:
            return name
        time.sleep(0.01)
