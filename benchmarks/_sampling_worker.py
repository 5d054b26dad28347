"""One arm of a benchmark in a process of its own, which works when it is told to.

Started by ``_sampling_harness.Worker`` with one line of JSON as argument. Talks JSON lines over its
standard streams: says ``ready`` once the arm is built and warm, then answers each request
``{"seed": n, "save": path or null}`` with the seconds that one run took, a short one after another
that is not timed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

SHOWN = ("ebmkit-core", "torch", "torchebm", "ebmkit", "jax", "blackjax")
"""Distributions whose versions a report names; ``ebmkit`` is another project's, imported as ``ebm``."""


class Arm(NamedTuple):
    """What is timed, and what its outcome is, which is not."""

    run: Callable[[int], Any]
    """Does the whole work from a seed, and returns when it is done."""
    result: Callable[[Any], Any]
    """An array from what ``run`` returned."""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main() -> None:
    wanted = json.loads(sys.argv[1])
    # Before anything starts threads: pools are made as large as the cores a process may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, wanted["cores"])
    # Whatever a library prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    import numpy as np

    if wanted["torch_threads"]:
        import torch

        torch.set_num_threads(wanted["torch_threads"])
    with np.load(wanted["arrays"]) as stored:
        arrays = dict(stored)
    module, _, builder = wanted["builder"].partition(":")
    build: Callable[..., Arm | None] = getattr(importlib.import_module(module), builder)
    arm = build(arrays, **wanted["options"])
    if arm is None:
        say({"absent": True})
        return
    if wanted["warm"]:
        for _ in range(2):
            arm.run(0)
    say({"ready": True, "versions": {name: _version(name) for name in SHOWN}})
    last = 0.0
    for line in sys.stdin:
        request = json.loads(line)
        # After a pause caches, clocks and pools of threads are cold, which short works feel.
        if wanted["warm"] and last < 0.5:
            arm.run(request["seed"])
        started = time.perf_counter()
        outcome = arm.run(request["seed"])
        seconds = last = time.perf_counter() - started
        if request["save"]:
            np.save(request["save"], np.asarray(arm.result(outcome)))
        say({"seconds": seconds})


if __name__ == "__main__":
    main()
