"""Each built-in loss's gradient of two processes against that of one on the joined batch with the
joined draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import ebmkit
from ebmkit.protocols import Batch
from ebmkit.registry import registry

ROWS = 12
CASES: dict[str, list[dict[str, Any]]] = {
    "contrastive-divergence": [{"energy_regularisation": 0.1, "k_steps": 3}],
    "persistent-contrastive-divergence": [
        {"energy_regularisation": 0.1, "k_steps": 3, "buffer_size": 64, "restart_rate": 0.2}
    ],
    "score-matching": [{"energy_regularisation": 0.1, "score_regularisation": 0.2}],
    "sliced-score-matching": [
        {"n_projections": 3},
        {"projections": "gaussian", "variance_reduction": False},
    ],
    "denoising-score-matching": [{"sigma": 0.3, "energy_regularisation": 0.1}],
}


def joined(parts: list[Any]) -> Any:
    """Draws, or batches, of several processes as those of one."""
    first = parts[0]
    if isinstance(first, Tensor):
        if not first.ndim:
            return first
        along = 0 if len(first) == ROWS else 1
        assert first.shape[along] == ROWS
        return torch.cat(parts, along)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(joined(list(column)) for column in zip(*parts, strict=True)))
    return first


def error_of(name: str, options: dict[str, Any], compile: str) -> dict[str, float]:  # noqa: A002
    pipeline = ebmkit.compose(
        {
            "model": {"use": "mlp", "hidden": [16, 16]},
            "dataset": "two-moons",
            "sampler": {"use": "langevin", "step_size": 0.05},
            "loss": {"use": name, **options},
            "training": {
                "steps": 3,
                "batch_size": ROWS,
                "optimizer": {"use": "sgd", "lr": 0.0},
                "compile": compile,
                "device": "cpu",
            },
        }
    )
    objective, module = pipeline.trainer.objective, pipeline.trainer.module
    assert module is not None
    seen: list[Any] = []
    draw = objective.draw

    def recorded(batch: Batch) -> Any:
        draws, state = draw(batch)
        seen.append((batch, draws))
        return draws, state

    objective.draw = recorded  # type: ignore[method-assign]
    worst, size = 0.0, 0.0
    for _ in range(3):
        metrics = pipeline.train_step()
        parts = pipeline.ranks.gathered(seen.pop())
        assert not torch.equal(parts[0][0].x, parts[1][0].x), "two processes drew the same rows"
        batch, draws = (joined([part[place] for part in parts]) for place in (0, 1))
        loss, _ = objective.loss(pipeline.model, batch, draws)
        weights = [p for p in module.parameters() if p.requires_grad]
        expected = torch.autograd.grad(loss, weights, allow_unused=True)
        for p, known in zip(weights, expected, strict=True):
            got = torch.zeros_like(p) if p.grad is None else p.grad
            known = torch.zeros_like(p) if known is None else known
            worst = max(worst, float((got - known).abs().max()))
            size = max(size, float(known.abs().max()))
    apart = abs(float(metrics["loss"]) - float(loss.detach()))
    assert compile == "off" or objective.computation.decision == "compiled"
    return {"error": worst, "gradient": size, "loss_error": apart}


def gradients() -> Iterator[dict[str, Any]]:
    """What is apart between two processes and one, a case at a time."""
    found = registry()
    built_in = {found.load(component) for component in found.of_kind("loss")}
    assert built_in == {found.load(found.find("loss", name)) for name in CASES}, built_in
    for name, variants in CASES.items():
        for options in variants:
            # Graphs take seconds to make: one for each loss.
            ways = ("off", "on") if options is variants[0] else ("off",)
            for compile in ways:  # noqa: A001
                yield {"loss": name, "compile": compile, **error_of(name, options, compile)}
