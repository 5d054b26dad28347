"""The memory of this machine, and what is refused because it would not fit into it."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from ebmkit.errors import MemoryNeededError

_CONTROL_GROUP = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@functools.cache
def memory() -> float:
    """Bytes of memory that this process may have: the machine's, or fewer where its control group or
    its own limits say so; infinite where the system does not tell."""
    return min(_limits(), default=float("inf"))


def _limits() -> Iterator[int]:
    with contextlib.suppress(AttributeError, ValueError, OSError):  # as on Windows
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CONTROL_GROUP:
        try:
            said = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if said.isdecimal():
            yield int(said)
    try:
        import resource
    except ImportError:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit


def expect_memory(what: str, n_bytes: int) -> None:
    """Expect so many bytes to fit into the machine's memory, before any of them is asked for.

    Raises:
        UserError: they would not; the message says what needs how much, and how much there is.
    """
    there = memory()
    if n_bytes > there:
        raise MemoryNeededError(
            f"{what} needs {_size(n_bytes)} of memory, and this machine has {_size(int(there))}; make "
            "it smaller, or use a machine with more"
        )


def _size(n_bytes: int) -> str:
    for power, unit in ((60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB")):
        if n_bytes >= 2**power:
            return f"{n_bytes / 2**power if n_bytes < 2**1000 else n_bytes >> power:.3g} {unit}"
    return f"{n_bytes:,} bytes"
