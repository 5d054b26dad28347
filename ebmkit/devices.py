"""Which device a run is on."""

from __future__ import annotations

import torch

from ebmkit.errors import DeviceError


def find_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the first of cuda, mps, cpu that is there.

    Raises:
        DeviceError: there is no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(
            f"{name!r} is no device; expected auto, cpu, cuda, cuda:i or mps"
        ) from None
    here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here += ["mps"] * torch.backends.mps.is_available()
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": torch.backends.mps.is_available()}
    if (device.index or 0) >= count.get(device.type, 0):
        raise DeviceError(
            f"there is no device {name!r} on this machine (there are: {', '.join(here)})"
        )
    return device
