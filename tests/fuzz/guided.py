"""Inputs chosen by the code that they reach: atheris, a process for each target."""

from __future__ import annotations

import multiprocessing
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

OURS = ("ebmkit", "ebmkit_datasets", "ebmkit_reporting", "tomllib")
"""What is instrumented: the readers themselves, and the parser of pipeline files."""


def guide(names: list[str], inputs: int, seed: int, keep: Path) -> int:
    """Read so many inputs for each target; 1 where one did not end as it should."""
    keep.mkdir(parents=True, exist_ok=True)
    failed = [name for name in names if _in_a_process(name, inputs, seed, keep)]
    print(
        f"chosen by coverage: {inputs} inputs for each of {', '.join(names)}; ended otherwise: {failed}"
    )
    return int(bool(failed))


def _in_a_process(name: str, inputs: int, seed: int, keep: Path) -> bool:
    # The fuzzer ends its process, and what is imported before it is not instrumented.
    process = multiprocessing.get_context("spawn").Process(
        target=_fuzz, args=(name, inputs, seed, keep)
    )
    process.start()
    process.join()
    return process.exitcode != 0


def _fuzz(name: str, inputs: int, seed: int, keep: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=[*OURS], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS, attempt

    from tests.fuzz.__main__ import bound_memory

    warnings.simplefilter("ignore")
    target = TARGETS[name]
    target.warm_up()
    bound_memory()

    def read(data: bytes) -> None:
        attempt(target, data)

    def change(data: bytes, size: int, number: int) -> bytes:
        chance = random.Random(number)
        if chance.random() < 0.5:
            return atheris.Mutate(data, size)[:size]  # type: ignore[no-any-return]
        return target.changed(data, chance)[:size]

    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(target.seeds()):
            (Path(folder) / str(number)).write_bytes(content)
        options: list[Any] = [f"-runs={inputs}", f"-seed={seed + 1}", "-max_len=20000"]
        options += [f"-artifact_prefix={keep}/{name}-"]
        options += ["-rss_limit_mb=3000", "-timeout=30", "-print_final_stats=1", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, folder], read, custom_mutator=change)
        atheris.Fuzz()
