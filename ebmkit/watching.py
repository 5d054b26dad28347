"""Imports of parts, watched: one that never ends would not say of itself whose it is."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebmkit.registry import Component

PATIENCE = 30.0
"""Seconds after which a user is told. That of torch, from a disk that is slow, takes less."""


class SlowImportWarning(UserWarning):
    """The import of a part takes so long that it may never end.

    The module of a plugin works, waits or asks for something while it is imported.
    Remedy: switch the part off by ``--no-plugin``, or give it time.
    """


def imported(component: Component) -> ModuleType:
    """The module that a component names, imported if it has not been."""
    if component.module in sys.modules:
        return importlib.import_module(component.module)
    with _watched(component):
        return importlib.import_module(component.module)


@contextmanager
def _watched(component: Component) -> Iterator[None]:
    """Warn when the import inside takes long, and name the part where it is interrupted."""

    def say() -> None:
        how = f"is still being imported after {PATIENCE:g} s ({component.target})"
        warnings.warn(component.broken(how), SlowImportWarning, stacklevel=2)

    alarm = threading.Timer(PATIENCE, say)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"during the import of {component.whose} ({component.target}), which --no-plugin "
            f"{component.distribution} switches off"
        ) from error
    finally:
        alarm.cancel()
