"""Pipelines that train in a moment, and whether two checkpoints are the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ebmkit
from ebmkit import checkpoint, hookimpl
from ebmkit.hooks import Hooks
from ebmkit.rundir import RunDirectory

PROCESS = ("process", "made_by")
"""What a checkpoint tells of the process that wrote it; all else is the run's."""


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Places where two trees differ, to the last bit."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        if not same or one.numpy().tobytes() != other.numpy().tobytes():
            yield path
    elif isinstance(one, dict):
        if list(one) != list(other):
            yield f"{path}: keys {list(one)} and {list(other)}"
        for key in one:
            yield from differences(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield path
        for place, (mine, others) in enumerate(zip(one, other, strict=False)):
            yield from differences(mine, others, f"{path}/{place}")
    elif type(one) is not type(other) or one != other:
        yield f"{path}: {one!r} and {other!r}"


def last(run: Path) -> dict[str, Any]:
    """A run's last checkpoint, but for what it tells of its process."""
    tree: dict[str, Any] = checkpoint.read(RunDirectory(run).checkpoints()[-1])
    return {key: value for key, value in tree.items() if key not in PROCESS}


class InterruptAt:
    """Asks a run to end after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def step_end(self, run: Any) -> None:
        if run.step == self.step:
            run.pipeline.interrupt()


def interrupted(spec: Any, out: Path, step: int, **overrides: Any) -> None:
    """Train to a step, and leave the run there."""
    pipeline = ebmkit.compose(copy.deepcopy(spec), **copy.deepcopy(overrides))
    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(out=out, hooks=Hooks({"interrupt": InterruptAt(step), **pipeline.hooks}))


@pytest.fixture
def differing() -> Callable[..., list[str]]:
    """Places where two checkpoints differ, to the last bit."""
    return lambda one, other: list(differences(one, other))


@pytest.fixture
def train_to() -> Callable[..., None]:
    """Train to a step, and leave the run there."""
    return interrupted


@pytest.fixture
def last_of() -> Callable[[Path], dict[str, Any]]:
    """A run's last checkpoint, but for what it tells of its process."""
    return last


@pytest.fixture
def straight_and_resumed(tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """The last checkpoints of a run and of the same one interrupted twice."""

    def both(spec: Any, first: int, second: int, **overrides: Any) -> tuple[Any, Any]:
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        pipeline = ebmkit.compose(copy.deepcopy(spec), **copy.deepcopy(overrides))
        pipeline.fit(out=whole, hooks=Hooks(pipeline.hooks))
        interrupted(spec, parts, first, **overrides)
        pipeline = ebmkit.load(parts, **copy.deepcopy(overrides))
        assert pipeline.step == first
        hooks = {"interrupt": InterruptAt(second), **pipeline.hooks}
        with pytest.raises(KeyboardInterrupt):
            pipeline.fit(out=parts, resume=True, hooks=Hooks(hooks))
        ebmkit.resume(
            parts,
            hooks=Hooks(ebmkit.load(parts, **copy.deepcopy(overrides)).hooks),
            **copy.deepcopy(overrides),
        )
        return last(whole), last(parts)

    return both
