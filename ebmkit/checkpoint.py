"""Trees of tensors and plain values as one safetensors file: no pickle, so nothing can be executed.

The file's metadata hold the tree's shape and a checksum of the whole file, in which the checksum's own
place stands as zeros.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ebmkit.errors import RunDirectoryError
from ebmkit.files import write_atomically

_UNSUMMED = "0" * 64
_SUM_KEY = b'"sha256":"'
_LARGEST_HEADER = 2**24
"""Bytes: names of some hundred thousand tensors. What is parsed takes up to thirty times as many."""
_MOST_KINDS = 100
_CHUNK = 1 << 20


def write(path: Path, tree: Any) -> None:
    """Write a tree atomically: under another name first, flushed to disk, then renamed."""
    tensors: dict[str, Tensor] = {}
    described = json.dumps(_describe(tree, "", tensors))
    content = to_bytes(tensors, {"tree": described, "sha256": _UNSUMMED})
    place = content.index(_SUM_KEY + _UNSUMMED.encode()) + len(_SUM_KEY)
    checksum = hashlib.sha256(content).hexdigest().encode()
    write_atomically(path, content[:place], checksum, memoryview(content)[place + 64 :])


def packed(tree: Any) -> tuple[str, dict[str, Tensor]]:
    """A tree as a description and tensors without one: what another process can be sent."""
    tensors: dict[str, Tensor] = {}
    return json.dumps(_describe(tree, "", tensors)), tensors


def unpacked(described: str, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that was packed, as ``read`` gives it."""
    return _Rebuilding(tensors.__getitem__).tree(json.loads(described))


def check(tree: Any) -> None:
    """Raises TypeError where a tree holds what cannot be written."""
    _describe(tree, "", {})


def read(path: Path, device: torch.device | str = "cpu") -> Any:
    """The tree that was written. NamedTuples come back with their names, though not their types.

    Raises:
        RunDirectoryError: the file is missing, torn, altered, or no checkpoint.
    """
    try:
        described = _verified(path)
        with safe_open(path, framework="pt", device=str(device)) as file:
            return _Rebuilding(file.get_tensor).tree(described)
    except (
        *(OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError),
        *(RecursionError, IndexError),
    ) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = f"it has no {reason}" if isinstance(error, KeyError) else reason
        raise RunDirectoryError(f"{path}: not a readable checkpoint: {reason}") from error


def _verified(path: Path) -> Any:
    """The tree's description in a file whose checksum is right."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise ValueError("it is torn, or no safetensors file")
        header = stream.read(length)
        metadata = json.loads(header)["__metadata__"]
        stated = metadata["sha256"].encode()
        before, key, rest = header.partition(_SUM_KEY + stated)
        if len(stated) != 64 or not key:
            raise ValueError("its checksum is not where it has to be")
        digest = hashlib.sha256(start + before + _SUM_KEY + _UNSUMMED.encode() + rest)
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest().encode() != stated:
        raise ValueError("its checksum is another: it is torn, or was altered")
    return json.loads(metadata["tree"])


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


class _Rebuilding:
    """A tree from its description, in which each tensor stands once: what is rebuilt is no larger than
    its file."""

    def __init__(self, tensor: Callable[[str], Tensor]) -> None:
        self._tensor = tensor
        self._used: set[str] = set()
        self._kinds: dict[tuple[str, ...], Any] = {}

    def tree(self, node: Any) -> Any:
        if not isinstance(node, dict):
            raise ValueError(f"its tree has a {type(node).__name__} for a node")
        if "tensor" in node:
            return self._once(node["tensor"])
        if "dict" in node:
            return {_key(key): self.tree(value) for key, value in node["dict"]}
        if "named" in node:
            kind = self._kind(node["named"], *node["fields"])
            return kind(*(self.tree(value) for value in node["values"]))
        for name, container in (("list", list), ("tuple", tuple)):
            if name in node:
                return container(self.tree(value) for value in node[name])
        value = node["value"]
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise ValueError(f"its tree has a {type(value).__name__} for a plain value")
        return value

    def _once(self, name: str) -> Tensor:
        if name in self._used:
            raise ValueError(f"its tree names the tensor {name!r} twice")
        self._used.add(name)
        return self._tensor(name)

    def _kind(self, *names: str) -> Any:
        if names not in self._kinds:
            if len(self._kinds) == _MOST_KINDS:
                raise ValueError(f"its tree has more than {_MOST_KINDS} kinds of named tuples")
            make: Any = collections.namedtuple
            self._kinds[names] = make(names[0], names[1:])
        return self._kinds[names]


def _key(key: Any) -> Any:
    if not isinstance(key, str | int | float):
        raise ValueError(f"its tree has a {type(key).__name__} for a key")
    return key
