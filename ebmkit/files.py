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


def expect_own_files(folder: Path, home: Path) -> None:
    """A run that came from elsewhere may hold links, through which files would be overwritten.

    Raises:
        RunDirectoryError: an entry of the folder leads out of its home.
    """
    try:
        links = [entry for entry in folder.iterdir() if entry.is_symlink()]
        away = [entry for entry in links if not entry.resolve().is_relative_to(home)]
    except OSError:
        return  # what cannot be looked at is told of by whoever reads or writes it
    if away:
        raise RunDirectoryError(
            f"{away[0]}: is a link to {os.readlink(away[0])!r}, out of the run's directory; put the "
            "file itself there"
        )


def _flush_directory(path: Path) -> None:
    """A new name is on disk only once its directory is."""
    if os.name == "nt":
        return  # directories cannot be opened there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
