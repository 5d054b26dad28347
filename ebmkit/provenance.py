"""What a checkpoint was made by, and what is another now."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any


class RunWarning(UserWarning):
    """Something about a run that was opened again, which its user should know.

    A checkpoint was torn and the one before it taken, or parts, versions or the number of threads
    are others than when it was written.
    Remedy: none where that was meant; else go on in the environment that ``spec.toml`` records.
    """


def made_by() -> dict[str, Any]:
    """What bits depend on beside a run's parts."""
    import torch

    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def moved(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """What is another than when the checkpoint was made, in words; empty where nothing is."""
    others = [
        f"{name} {recorded[name]} then and {now} now"
        for name, now in present.items()
        if name in recorded and recorded[name] != now
    ]
    return ", ".join(others)


def changed_parts(
    recorded: Mapping[str, Any], present: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Parts that are of another version now: those that may well be the same, and those that may not.

    Both map ``kind:name`` to ``distribution==version``. The rule is that of semantic versions: the
    same distribution with the same major version (of 0.x: the same minor one) may well be.
    """
    mild: list[str] = []
    grave: list[str] = []
    for part, then, now in _pairs(recorded, present):
        if then != now:
            kept = mild if _close(then, now) else grave
            kept.append(f"{part.replace(':', ' ', 1)} was of {then} and is of {now}")
    return mild, grave


def _pairs(
    recorded: Mapping[str, Any], present: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    for part, now in present.items():
        if isinstance(then := recorded.get(part), str):
            yield part, then, str(now)


def _close(then: str, now: str) -> bool:
    from packaging.version import InvalidVersion, Version

    from ebmkit.registry import same

    (one, _, old), (other, _, new) = then.partition("=="), now.partition("==")
    try:
        before, after = Version(old), Version(new)
    except InvalidVersion:
        return False
    steady = 1 if before.major else 2
    return same(one, other) and before.release[:steady] == after.release[:steady]
