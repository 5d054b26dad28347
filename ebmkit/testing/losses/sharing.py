"""Losses whose state is shared among the processes of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from ebmkit import checkpoint
from ebmkit.errors import UserError
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.losses.trainees import batch_of, batch_size, bound, discrete, tensors_in
from ebmkit.testing.losses.values import network
from ebmkit.testing.subject import Subject

ROWS = 8
"""Of a batch: few, so that a share of what a loss keeps has room for them."""
PARTS = (1, 2, 3, 4)


def _shares(subject: Subject) -> str:
    if said := discrete(subject):
        return said
    made = subject.make()
    if not (hasattr(made, "split") or hasattr(made, "joined")):
        return "it offers no split(state, parts), so each process keeps a whole state"
    return ""


@law(
    "loss",
    why="A run goes on with another number of processes than it was kept by.",
    means="what a loss keeps from step to step is lost, doubled or mixed up when such a run goes on",
    applies=_shares,
)
def shares_joined_are_the_whole(subject: Subject, cases: Cases) -> None:
    shape, size = subject.shapes[0], batch_size(subject, ROWS)
    for told in (False, True):
        model = network(subject, shape, cases.seed, told=told)
        objective = bound(subject, model, cases.seed, shape)
        batch = batch_of(shape, size, cases.seed + 5, labelled=told)
        for _ in range(3):
            _, objective.state = objective.draw(batch)
        loss: object = objective.loss
        for name in ("split", "joined"):
            cases.expect(hasattr(loss, name), f"expected split and joined, got no {name}")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state.safetensors"
            checkpoint.write(file, objective.state)
            kept = checkpoint.read(file)
        taken = 0
        for parts in PARTS:
            with cases.case(f"{parts} shares" + (", labelled" if told else "")):
                try:
                    shares = list(loss.split(kept, parts))  # type: ignore[attr-defined]
                except UserError:
                    continue  # a number by which it cannot be shared alike
                taken += parts > 1
                cases.expect(
                    len(shares) == parts, f"split: expected {parts} states, got {len(shares)}"
                )
                whole = dict(tensors_in(loss.joined(shares)))  # type: ignore[attr-defined]
                expected = dict(tensors_in(kept))
                cases.expect(
                    whole.keys() == expected.keys()
                    and all(torch.equal(whole[name], expected[name]) for name in whole),
                    "joined(split(state, parts)): expected the state as it was",
                )
                objective.state = shares[-1]
                objective.draw(batch_of(shape, min(size, 2), cases.seed + 6, labelled=told))
        cases.expect(taken > 0, f"split: expected to share by 2, 3 or 4, got refusals, {PARTS}")
