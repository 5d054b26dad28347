"""Parallel tempering of discrete states samples them as enumeration says.

The statistics are of χ² with 26 degrees of freedom each: a false alarm has probability below 6e-7.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from ebmkit_adaptation._rescaled import Rescaled
from ebmkit_adaptation.adaptive import Adaptive
from ebmkit_tempering._replicas import Tempered
from ebmkit_tempering.parallel_tempering import ParallelTempering
from torch import Tensor

import ebmkit
from ebmkit import Batch
from ebmkit.chains import run_chain
from ebmkit.evaluation.bases import States

BETAS = [1.0, 0.4]
Q = 3
CODES = torch.tensor(list(itertools.product(range(Q), repeat=3)))
STATES = torch.nn.functional.one_hot(CODES, Q).float()
CRITICAL = 77.1


def potts() -> Any:
    return ebmkit.create("model", "potts", event_shape=[3, Q], coupling=1.2, field=[0.5, 0.0, -0.4])


def chi_square(x: Tensor, expected: Tensor) -> float:
    code = (x.argmax(-1) * torch.tensor([Q**2, Q, 1])).sum(1)
    counts = torch.bincount(code, minlength=len(expected)).double()
    due = expected * len(x)
    return float(((counts - due).square() / due).sum())


@pytest.mark.parametrize("inner", ["gibbs", "gibbs-with-gradients"])
def test_categories_are_sampled_at_every_temperature(inner: str) -> None:
    n, model = 8000, potts()
    sampler = ParallelTempering(ebmkit.create("sampler", inner), inverse_temperatures=BETAS)
    chain = run_chain(
        sampler,
        model,
        STATES[:1].repeat(n, 1, 1),
        steps=60,
        generator=torch.Generator().manual_seed(1),
    )
    energies = model(STATES).double()
    (replicas,) = chain.state.replicas
    points = replicas.x
    for beta, x in zip(BETAS, points.unbind(1), strict=True):
        assert ((x == 0) | (x == 1)).all() and (x.sum(-1) == 1).all()
        assert chi_square(x, (-beta * energies).softmax(0)) < CRITICAL
    assert torch.equal(chain.x, points[:, 0])


def test_energies_in_between_say_what_they_are_of() -> None:
    for energy in (Tempered(potts(), 0.3), Rescaled(potts(), torch.ones(1, 3, Q))):
        assert States.of(energy) == States(True, Q)
        assert ebmkit.offered(energy, "categories") == Q
    plain = Tempered(lambda x: x.sum(1), 0.3)
    assert States.of(plain) == States(False, None)


def network(x: Tensor) -> Tensor:
    """An energy that does not say what its states are."""
    return x.flatten(1).square().sum(1)


class Stepping:
    """A discrete sampler with a step size, as a made-up one may have."""

    discrete = exact = True
    categories = Q
    step_size = 0.3

    def init(self, energy: Any, x: Tensor) -> Any:
        raise AssertionError

    draw = step = init


def test_what_the_inner_sampler_was_told_is_known_outside() -> None:
    gibbs = ebmkit.create("sampler", "gibbs", categories=Q)
    for sampler in (ParallelTempering(gibbs), Adaptive(Stepping(), mass=False)):
        assert States.of(network, sampler) == States(True, Q)
    assert (
        States.of(network, ParallelTempering(ebmkit.create("sampler", "gibbs"))).categories is None
    )
    loss = ebmkit.create(
        "loss",
        "persistent-contrastive-divergence",
        sampler=ParallelTempering(gibbs),
        fill="uniform",
        buffer_size=50,
    )
    buffer = loss.init(network, Batch(STATES), generator=torch.Generator().manual_seed(2))
    assert (buffer.x.sum(-1) == 1).all()
