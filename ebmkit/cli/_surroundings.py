"""What a run depends on beside its pipeline: versions, devices, variables of the environment, and what
installed plugins require."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, distributions, version

from ebmkit.registry import HOME, same

PACKAGES = (
    HOME,
    "torch",
    "numpy",
    "attrs",
    "cattrs",
    "pluggy",
    "click",
    "safetensors",
    "matplotlib",
)
STRANGER = "ebmkit"
"""A distribution of this name belongs to another project; plugins must require ebmkit-core."""
VARIABLES = (
    "ATEN_",
    "CUBLAS_",
    "CUDA_",
    "EBMKIT_",
    "GLIBC_TUNABLES",
    "GOMP_",
    "KMP_",
    "LD_PRELOAD",
    "MALLOC_",
    "MKL_",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "PYTHONHASHSEED",
    "PYTHONOPTIMIZE",
    "PYTHONPATH",
    "PYTORCH_",
    "TORCH",
    "TRITON_",
)
"""How variables begin that change what ebmkit finds, its results, or how fast they come."""


def packages() -> dict[str, str]:
    """Versions by package, Python's first."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def devices() -> list[str]:
    """What a run could be placed on, as ``training.device`` names it; nothing without torch."""
    try:
        import torch
    except Exception:  # a plugin whose entry points are no entry points ends this import too
        return []
    found = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return found + ["mps"] * torch.backends.mps.is_available()


def variables() -> dict[str, str]:
    """Those of the environment that matter, in the alphabet's order."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)}


def strangers(plugins: Collection[str]) -> Iterator[str]:
    """Plugin distributions that require another project's distribution instead of ebmkit-core."""
    from packaging.requirements import InvalidRequirement, Requirement

    for distribution in distributions():
        name = str(distribution.metadata["Name"])
        if not any(same(name, plugin) for plugin in plugins):
            continue
        for text in distribution.requires or ():
            try:
                required = Requirement(text).name
            except InvalidRequirement:
                continue
            if same(required, STRANGER):
                yield (
                    f"{name} requires {STRANGER!r}, which is another project's distribution; its "
                    f"author should require {HOME!r}"
                )
