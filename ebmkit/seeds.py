"""Generators of a run, one a purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from ebmkit.errors import RunDirectoryError


def process_generators() -> dict[str, torch.Tensor]:
    """The states of torch's own generators, one a device that is in use; nothing is drawn."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"cuda:{number}"] = state
    return states


def set_process_generators(states: Mapping[str, torch.Tensor]) -> None:
    """Put torch's own generators to states of ``process_generators``: of a process that is ours.

    Raises:
        RunDirectoryError: they are no such states.
    """
    try:
        for device, state in states.items():
            if device == "cpu":
                torch.set_rng_state(state.cpu())
            elif torch.cuda.is_available() and int(device[5:]) < torch.cuda.device_count():
                torch.cuda.set_rng_state(state.cpu(), device)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(
            f"the checkpoint's states of torch's generators are none: {error}"
        ) from error


def stream(
    seed: int,
    purpose: str,
    device: torch.device | str = "cpu",
    *,
    rank: int = 0,
    step: int | None = None,
) -> torch.Generator:
    """The generator of one purpose of a run: streams of one seed are independent of each other, and so
    are those of the run's processes, and of one that takes part from a ``step`` on."""
    name = f"{seed}/{purpose}"
    if rank:
        name += f"/rank {rank}"
    if step is not None:
        name += f"/from step {step}"
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8]) >> 1)
