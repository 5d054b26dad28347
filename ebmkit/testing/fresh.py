"""Work done in a process that has imported nothing yet."""

from __future__ import annotations

import ast
import importlib
import logging
import os
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ebmkit.sources import find_module

PATIENCE = 300
"""Seconds that a fresh process is given."""

_CODE = """
import os, pickle, sys
source, answer = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
sys.path[:] = pickle.load(source)
function, arguments = pickle.load(source)
try:
    told = True, function(*arguments)
except Exception as error:
    told = False, f"{type(error).__name__}: {error}"
pickle.dump(told, answer)
"""


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> tuple[bool, Any]:
    """Whether a function of a module returned in a new interpreter, and what; else what went wrong.

    The interpreter looks for modules where this one does, and has imported none of them.
    """
    given = pickle.dumps(sys.path) + pickle.dumps((function, arguments))
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CODE],
            input=given,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"it was not done after {PATIENCE} seconds"
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return False, f"the process ended with {done.returncode}: {' '.join(last)}"
    good, told = pickle.loads(done.stdout)
    return bool(good), told


def unfindable(module: str) -> str:
    """Why a module cannot be imported by its name in another process; empty where it can."""
    if module in ("__main__", "builtins") or find_module(module) is None:
        return f"its module {module} cannot be imported by name in a fresh process"
    return ""


def effects_of_import(module: str) -> list[str]:
    """What importing a module changes of this process, beyond what the packages that it imports
    change themselves, torch and ebmkit among them."""
    for base, name in dict.fromkeys(_others(module, set())):
        with suppress(Exception):  # what a module does without, or imports in some places only
            found = importlib.import_module(base)
            if name and not hasattr(found, name):
                importlib.import_module(f"{base}.{name}")
    before = process_state()
    importlib.import_module(module)
    after = process_state()
    return [
        f"{name} from {_short(before[name])} to {_short(after[name])}"
        for name in before
        if before[name] != after[name]
    ]


def random_states() -> dict[str, Any]:
    """The global random states of torch, numpy and python, in words that compare."""
    import numpy as np
    import torch

    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's global random state": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "python's global random state": random.getstate(),
    }


@contextmanager
def stirred() -> Iterator[None]:
    """The global random states are others for a while, that no code seeds them to by chance."""
    import numpy as np
    import torch

    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    unlikely = 0x5EED_0F_2A
    torch.default_generator.manual_seed(unlikely)
    np.random.seed(unlikely)  # noqa: NPY002
    random.seed(unlikely)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def process_state() -> dict[str, Any]:
    """What of a process all code in it shares, in words that compare."""
    import torch

    return random_states() | {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": str(torch.get_default_device()),
        "torch's number of threads": torch.get_num_threads(),
        "torch's number of threads between operations": torch.get_num_interop_threads(),
        "the precision of float32 products": torch.get_float32_matmul_precision(),
        "whether torch is deterministic": torch.are_deterministic_algorithms_enabled(),
        "whether gradients are recorded": torch.is_grad_enabled(),
        "warnings' filters": [str(entry) for entry in warnings.filters],
        "the root logger's level": logging.getLogger().level,
        "the environment": dict(os.environ),
    }


def _short(value: Any) -> str:
    if isinstance(value, bytes | tuple):
        return f"{hash(value) & 0xFFFF:04x}"
    said = str(value)
    return said if len(said) < 80 else f"{said[:77]}…"


def _others(module: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """What a module, and the modules of its own package that it imports, import of others: names of
    modules, and of what of them."""
    own = module.partition(".")[0]
    parts = module.split(".")
    for name in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
        found = find_module(name) if name not in seen else None
        seen.add(name)
        if found is None or not (found.origin or "").endswith(".py"):
            continue
        package = name if found.submodule_search_locations else name.rpartition(".")[0]
        for base, inside in _imported(Path(str(found.origin)), package):
            if base.partition(".")[0] != own:
                yield base, inside
                continue
            for other in (base, f"{base}.{inside}"):
                yield from _others(other, seen) if other not in seen else ()


def _imported(path: Path, package: str) -> Iterator[tuple[str, str]]:
    """What a file's module imports when it is imported itself: modules, and names of them."""
    waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else ()), *filter(None, [node.module])])
            yield from ((base, alias.name) for alias in node.names)
