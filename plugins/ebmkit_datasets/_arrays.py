"""NumPy's npy and npz files, read without pickle, and sized before anything is allocated.

NumPy's own reader allocates what a header claims. Here the bytes have to be there first.
"""

from __future__ import annotations

import ast
import lzma
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from ebmkit import DataError, expect_memory

AnyArray: TypeAlias = np.ndarray[Any, Any]

_MAGIC = b"\x93NUMPY"
_LENGTHS = {(1, 0): "<H", (2, 0): "<I", (3, 0): "<I"}
_LONGEST_HEADER = 10_000
_MOST_AXES = 32
_DTYPE = re.compile(r"[<>|=]?[A-Za-z]\d*(\[[^\]]{1,8}\])?")
UNPACKED = 100
"""How many times the size of its archive an array of an npz file may be."""
FREELY = 2**26
"""Bytes of an array that may be so in any case: 64 MiB."""
_BROKEN = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


class Arrays:
    """An open npy or npz file: its only array, or its arrays by name."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path = path
        self._file = file
        self.size = file.seek(0, 2)
        file.seek(0)
        start = file.read(len(_MAGIC))
        file.seek(0)
        self.single = start == _MAGIC
        self._members: dict[str, zipfile.ZipInfo] = {}
        if self.single:
            return
        if not start.startswith(b"PK"):
            raise unreadable(path, "neither an npy nor an npz file by its first bytes")
        try:
            self._archive = zipfile.ZipFile(file)
        except _BROKEN as error:
            raise unreadable(path, f"{type(error).__name__}: {error}") from error
        for info in self._archive.infolist():
            self._members[_name(path, info.filename)] = info

    @property
    def names(self) -> Mapping[str, object]:
        return self._members

    def only(self) -> AnyArray:
        """The array of an npy file."""
        return _array(self.path, self._file, self.size)

    def member(self, name: str) -> AnyArray:
        """An array of an npz file."""
        info = self._members[name]
        where = f"{self.path}[{name!r}]"
        packed = min(info.compress_size, self.size)
        if info.file_size > max(FREELY, UNPACKED * packed):
            raise DataError(
                f"{where}: {packed:,} bytes that unpack to {info.file_size:,}, more than {UNPACKED} "
                "times as many, are refused; save the array with numpy.savez, which does not pack it"
            )
        try:
            with self._archive.open(info) as stream:
                return _array(where, stream, info.file_size)
        except _BROKEN as error:
            raise unreadable(where, f"{type(error).__name__}: {error}") from error


def unreadable(where: str, what: str) -> DataError:
    return DataError(
        f"{where}: expected arrays of numbers, readable without pickle, got {what[:300]}; save them "
        "with numpy.save or numpy.savez"
    )


def _name(path: str, name: str) -> str:
    """What a member is called; DataError where it would be unpacked outside of a folder."""
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or ":" in parts[0] or not name.isprintable():
        raise DataError(
            f"{path}: its member {name[:100]!r} leads out of the archive, as none of numpy.savez does; "
            "do not use this file"
        )
    return name.removesuffix(".npy")


def _array(where: str, stream: Any, size: int) -> AnyArray:
    """The array of a stream of ``size`` bytes."""
    dtype, fortran, shape, start = _header(where, stream)
    count = math.prod(shape)
    claimed = count * dtype.itemsize
    if claimed > size - start:
        raise DataError(
            f"{where}: its header claims an array of shape {_said(shape)}, which is {claimed:,} bytes, "
            f"and {max(size - start, 0):,} follow; the file is torn or altered, so get it again"
        )
    # Readers turn whole numbers of most kinds into float64.
    expect_memory(f"{where}: an array of shape {_said(shape)}", max(claimed, 8 * count))
    flat = np.empty(count, dtype)
    view = flat.view(np.uint8).data
    done = 0
    while done < claimed:
        step = stream.readinto(view[done : done + 2**24])
        if not step:
            raise unreadable(where, f"the end of the file after {done:,} of {claimed:,} bytes")
        done += step
    try:
        return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    except ValueError as error:  # nothing at all, of so many rows that they cannot be counted
        raise unreadable(where, f"an array of shape {_said(shape)}, as there is none") from error


def _header(where: str, stream: Any) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    start = stream.read(len(_MAGIC) + 2)
    kind = _LENGTHS.get(tuple(start[len(_MAGIC) :])) if start[: len(_MAGIC)] == _MAGIC else None
    if kind is None:
        raise unreadable(where, "no header of the npy format, versions 1 to 3")
    packed = stream.read(struct.calcsize(kind))
    length = struct.unpack(kind, packed)[0] if len(packed) == struct.calcsize(kind) else 0
    if not 0 < length <= _LONGEST_HEADER:
        raise unreadable(
            where, f"a header of {length:,} bytes, 1 to {_LONGEST_HEADER:,} of which fit"
        )
    text = stream.read(length)
    try:
        said = ast.literal_eval(text.decode("latin-1").strip())
        descr, fortran, shape = (said[key] for key in ("descr", "fortran_order", "shape"))
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise unreadable(where, f"a header that says nothing: {type(error).__name__}") from None
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise unreadable(where, f"the shape {_said(shape)}")
    if len(shape) > _MOST_AXES:
        raise unreadable(where, f"{len(shape)} axes, more than {_MOST_AXES}")
    if isinstance(descr, str) and "O" in descr:
        raise unreadable(where, "Object arrays, which are pickled and could run code")
    return _dtype(where, descr), fortran is True, shape, len(start) + len(packed) + length


def _dtype(where: str, descr: object) -> np.dtype[Any]:
    try:
        if not isinstance(descr, str) or not _DTYPE.fullmatch(descr):
            raise TypeError
        dtype = np.dtype(descr)
        if dtype.kind in "biuf":
            return dtype
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: expected real numbers, got dtype {_said(descr)}") from None
    raise DataError(
        f"{where}: expected real numbers, got dtype {dtype}; convert the array, to float32 for "
        "instance, and save it again"
    )


def _said(value: object) -> str:
    try:
        return repr(value)[:200]
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        return "one too long to say"
