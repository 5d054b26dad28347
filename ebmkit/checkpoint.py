"""Trees of tensors and plain values as one safetensors file: no pickle, so nothing can be executed."""

from __future__ import annotations

import collections
import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ebmkit.errors import RunDirectoryError


def write(path: Path, tree: Any) -> None:
    """Write a tree atomically: under another name first, flushed to disk, then renamed."""
    tensors: dict[str, Tensor] = {}
    described = json.dumps(_describe(tree, "", tensors))
    content = to_bytes(tensors, {"tree": described})
    write_atomically(path, content)


def check(tree: Any) -> None:
    """Raises TypeError where a tree holds what cannot be written."""
    _describe(tree, "", {})


def read(path: Path, device: torch.device | str = "cpu") -> Any:
    """The tree that was written. NamedTuples come back with their names, though not their types.

    Raises:
        RunDirectoryError: the file is missing, torn, or no checkpoint.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            described = json.loads((file.metadata() or {})["tree"])
            return _rebuild(described, file.get_tensor)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunDirectoryError(f"{path}: not a readable checkpoint: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file's content so that a reader sees the old or the new, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise RunDirectoryError(f"{path}: cannot be written: {error.strerror or error}") from error


def _describe(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        while path in tensors:  # keys with a slash in them may spell one path twice
            path += "'"
        # A copy: weights that share memory, or views of more, are refused by the format.
        tensors[path] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(tree, Mapping):
        items = [[key, _describe(value, f"{path}/{key}", tensors)] for key, value in tree.items()]
        return {"dict": items}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields = list(tree._fields)
        values = [
            _describe(value, f"{path}/{field}", tensors)
            for field, value in zip(fields, tree, strict=True)
        ]
        return {"named": type(tree).__name__, "fields": fields, "values": values}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_describe(v, f"{path}/{i}", tensors) for i, v in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise TypeError(
        f"a checkpoint holds tensors and plain values, got {type(tree).__name__} at {path}"
    )


def _rebuild(described: Any, tensor: Any) -> Any:
    if "tensor" in described:
        return tensor(described["tensor"])
    if "dict" in described:
        return {key: _rebuild(value, tensor) for key, value in described["dict"]}
    if "named" in described:
        make: Any = collections.namedtuple
        kind = make(described["named"], described["fields"])
        return kind(*(_rebuild(value, tensor) for value in described["values"]))
    for name, container in (("list", list), ("tuple", tuple)):
        if name in described:
            return container(_rebuild(value, tensor) for value in described[name])
    return described["value"]
