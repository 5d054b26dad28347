"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ebmkit.errors import RunDirectoryError

PARTIAL = ".partial"
"""How names end of files that are not written to their end yet."""


def write_atomically(path: Path, *content: bytes | memoryview) -> None:
    """Replace a file's content so that a reader sees the old or the new, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with beside.open("wb") as stream:
            for part in content:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise RunDirectoryError(f"{path}: cannot be written: {error.strerror or error}") from error


def _flush_directory(path: Path) -> None:
    """A new name is on disk only once its directory is."""
    if os.name == "nt":
        return  # directories cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
