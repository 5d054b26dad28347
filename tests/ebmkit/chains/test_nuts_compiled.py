"""Trees of a length that depends on the chains, compiled: the chains stay the same."""

from __future__ import annotations

import warnings
from typing import Any

import torch

import ebmkit
from ebmkit.chains import run_chain
from ebmkit.chains.conduct import Conduct, conducted

from .conftest import points, seeded

NUTS: dict[str, Any] = {"use": "nuts", "step_size": 0.2, "max_depth": 4}


def agree(sampler: dict[str, Any], steps: int, dtype: torch.dtype) -> None:
    energy, x = ebmkit.create("model", "banana").to(dtype), points(8).to(dtype)
    made = ebmkit.create(
        "sampler", sampler["use"], **{k: v for k, v in sampler.items() if k != "use"}
    )
    found = []
    for mode in ("off", "step"):
        conduct = Conduct(compile=mode)  # type: ignore[arg-type]
        with warnings.catch_warnings(), conducted(conduct):
            warnings.simplefilter("error")
            run = run_chain(made, energy, x, steps=steps, generator=seeded(2))
        found.append((run.x, run.metrics))
    assert conduct.decision.startswith("compiled")
    (eager, expected), (compiled, metrics) = found
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(metrics, expected)
    # Chains turn round before the last doubling, some of them earlier than others.
    assert 1 < expected["tree_depth"] < 4
    assert not torch.equal(eager, x)


def test_compiled_trees_are_those_of_eager_chains() -> None:
    agree(NUTS, 6, torch.float32)


def test_traced_within_a_sampler_that_adapts_too(traced: list[Any]) -> None:
    agree({"use": "adaptive", "sampler": NUTS}, 6, torch.float64)
    assert len(traced) == 1
