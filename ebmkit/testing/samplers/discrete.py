"""Samplers of discrete states, against all states counted one by one.

Chains start from exact draws, so that nothing has to converge: what a sampler leaves invariant stays.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.samplers.stationary import CHAINS, FALSE_ALARM, moved, suited
from ebmkit.testing.subject import Subject

DEVIATION = 5.612
"""Of a standard normal number, beyond which it is on that side with probability FALSE_ALARM."""
STEPS = (1, 8)
"""After so many of which states are counted."""


class Coupled:
    """E(x) = −b·x − ½ x·W x of states (batch, *event): zeros and ones, or one-hot along the last axis.

    Its gradient is of the same formula between the states, and it has all of them and their exact
    probabilities. ``forbidden`` states have energy +∞.
    """

    discrete = True
    noise_conditional = True

    def __init__(
        self, variables: int, categories: int | None, seed: int, forbidden: int = 0
    ) -> None:
        if categories is not None:
            self.categories = categories
        self.event_shape = (variables,) if categories is None else (variables, categories)
        size = math.prod(self.event_shape)
        self.bias = reference.normal(size, seed=seed) / 2
        weight = reference.normal(size, size, seed=seed + 1)
        # None of a variable with itself: of one-hot ones none between its categories.
        variable = torch.arange(size) // (categories or 1)
        between = variable[:, None] != variable
        self.weight = (weight + weight.T) / 2 * between
        each = torch.eye(categories or 2).double() if categories else torch.tensor([[0.0], [1.0]])
        self.states = torch.stack(
            [torch.cat(tuple(rows)) for rows in itertools.product(each, repeat=variables)]
        ).double()
        """All, (states, numbers in an event)."""
        self.beyond = (
            self.states[:: max(len(self.states) // forbidden, 1)][:forbidden] if forbidden else None
        )
        self.probabilities = (-self(self.states.view(-1, *self.event_shape))).softmax(0)
        """Of each state."""

    def __call__(self, x: Tensor, *, noise_level: Any = None) -> Tensor:  # noqa: ARG002
        rows = x.flatten(1)
        weight, bias = self.weight.to(rows.dtype), self.bias.to(rows.dtype)
        energies = -(rows @ bias) - (rows @ weight * rows).sum(1) / 2
        if self.beyond is None:
            return energies
        there = (rows[:, None] == self.beyond.to(rows.dtype)).all(2).any(1)
        return torch.where(there, torch.inf, energies)

    def draws(self, size: int, seed: int) -> Tensor:
        """Exact draws (size, *event)."""
        chosen = torch.multinomial(
            self.probabilities, size, replacement=True, generator=reference.generator(seed)
        )
        return self.states[chosen].view(size, *self.event_shape)

    def counts(self, x: Tensor) -> tuple[Tensor, int]:
        """How many of x are each state, and how many none of them."""
        same = (x.flatten(1)[:, None].double() == self.states).all(2)
        return same.sum(0), int((~same.any(1)).sum())


class Swept(Coupled):
    """One that offers a Gibbs sweep by its formula."""

    @property
    def n_uniforms(self) -> int:
        return len(self.bias) // getattr(self, "categories", 1)

    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        rows = x.flatten(1).clone()
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        q = getattr(self, "categories", None)
        for i in range(self.n_uniforms):
            here = slice(i * (q or 1), (i + 1) * (q or 1))
            # By which the log odds of its numbers being 1 are given all others.
            field = bias[here] + rows @ weight[:, here]
            if q is None:
                rows[:, here] = (uniforms[:, i, None] < field.sigmoid()).to(x.dtype)
            else:
                sums = field.softmax(1).cumsum(1)
                chosen = (uniforms[:, i, None] * sums[:, -1:] >= sums[:, :-1]).sum(1)
                rows[:, here] = torch.nn.functional.one_hot(chosen, q).to(x.dtype)
        return rows.view(x.shape)


def _targets(subject: Subject, seed: int) -> list[tuple[str, Coupled]]:
    """Energies that the sampler says it can sample."""
    own = getattr(subject.make(), "categories", None)
    found: list[tuple[str, Coupled]] = []
    q = own or 3
    for kind, name, n in ((Coupled, "coupled", 4), (Swept, "jointly swept", 3)):
        if own is None:
            found.append((f"{n} {name} bits", kind(n, None, seed + n)))
        found.append((f"2 {name} variables of {q} categories", kind(2, q, seed + q)))
    return [(name, target) for name, target in found if suited(subject.make(), target)]


def _continuous(subject: Subject) -> str:
    sampler = subject.make()
    if getattr(sampler, "discrete", False) is not True:
        return "its states are not discrete"
    if not _targets(subject, 0):
        return "its check refuses all of the kit's discrete energies"
    return ""


def _unclaimed(subject: Subject) -> str:
    if said := _continuous(subject):
        return said
    if getattr(subject.make(), "stationary", True) is False:
        return "it says by stationary = False that it leaves no distribution invariant"
    return ""


@functools.cache
def most(freedom: int) -> float:
    """χ² of so many degrees of freedom, beyond which it is with probability FALSE_ALARM, by its cube
    root, which is about normal (Wilson and Hilferty, 1931)."""
    return float(freedom * (1 - 2 / (9 * freedom) + DEVIATION * math.sqrt(2 / (9 * freedom))) ** 3)


def counted(cases: Cases, target: Coupled, x: Tensor, said: str) -> None:
    """Each state's frequency against its probability."""
    counts, astray = target.counts(x)
    cases.expect(not astray, f"{said} {astray} of {len(x)} chains are at no state")
    expected = target.probabilities * len(x)
    never = expected == 0
    impossible = int(counts[never].sum())
    cases.expect(not impossible, f"{said} {impossible} chains are at states of energy inf")
    off = (counts - expected)[~never]
    chi_square = float((off.square() / expected[~never]).sum())
    limit = most(int((~never).sum()) - 1)
    worst = int((off.abs() / expected[~never].sqrt()).argmax())
    share = float(counts[~never][worst]) / len(x)
    cases.expect(
        chi_square <= limit,
        f"{said} χ² of the states' frequencies is {chi_square:.0f}, expected at most {limit:.0f} "
        f"(false-alarm rate {FALSE_ALARM:.0e}); state {target.states[~never][worst].int().tolist()} "
        f"has {share:.4f}, expected {float(target.probabilities[~never][worst]):.4f}",
    )


@law(
    "sampler",
    why="Every sample, and every gradient made of samples, is of the distribution that chains have.",
    means="its samples are not of p(x) ∝ exp(−E(x)), and a model trained by them learns another one",
    applies=_unclaimed,
)
def frequencies_are_those_of_all_states(subject: Subject, cases: Cases) -> None:
    for name, target in _targets(subject, 10 * cases.seed):
        x = target.draws(CHAINS, cases.seed)
        with cases.case(f"{name}, {len(x)} chains"):
            states = list(moved(subject.make(), target, x, max(STEPS), cases.seed + 1))
            for step in STEPS:
                counted(cases, target, states[step - 1], f"after {step} steps from exact draws")


@law(
    "sampler",
    why="A state of energy +∞ has probability 0, as have combinations that a model rules out.",
    means="chains are at states that cannot be, or at NaN",
    applies=_unclaimed,
)
def states_of_no_probability_are_never_entered(subject: Subject, cases: Cases) -> None:
    own = getattr(subject.make(), "categories", None)
    target = Coupled(2 if own else 4, own, 10 * cases.seed + 5, forbidden=2)
    if not suited(subject.make(), target):
        target = Coupled(2, 3, 10 * cases.seed + 5, forbidden=2)
    x = target.draws(CHAINS, cases.seed)
    with cases.case(f"2 of {len(target.states)} states of energy inf, {len(x)} chains"):
        *_, after = moved(subject.make(), target, x, 4, cases.seed + 1)
        counted(cases, target, after, "after 4 steps from exact draws")


@law(
    "sampler",
    why="Averages over chains are those of p(x) only if each chain can come to every state.",
    means="samples keep for ever something of what their chains began with",
    applies=_unclaimed,
)
def every_state_is_reached(subject: Subject, cases: Cases) -> None:
    for name, target in _targets(subject, 10 * cases.seed):
        # Of which at least 1000 are expected, were all visits exact draws.
        likely = target.probabilities > 1e-2
        begin = target.states[target.probabilities.argmax()].view(1, *target.event_shape)
        x = begin.expand(2000, *target.event_shape).clone()
        seen = torch.zeros_like(likely)
        with cases.case(f"{name}, {len(x)} chains from the likeliest state"):
            for after in moved(subject.make(), target, x, 50, cases.seed + 1):
                seen |= target.counts(after)[0] > 0
                if bool(seen[likely].all()):
                    break
            missing = target.states[likely & ~seen].int().tolist()
            cases.expect(not missing, f"in 50 steps no chain came to {missing}")


@law(
    "sampler",
    why="Between the states a discrete energy means nothing.",
    means="chains and buffers hold what is no state, and training goes by its energy",
    applies=_continuous,
)
def states_stay_states(subject: Subject, cases: Cases) -> None:
    for name, target in _targets(subject, 10 * cases.seed):
        for dtype in (torch.float32, torch.float64):
            for batch in (0, 1, 50):
                x = target.draws(max(batch, 1), cases.seed)[:batch].to(dtype)
                with cases.case(f"{name}, batch {batch}, {dtype}"):
                    for step, after in enumerate(
                        moved(subject.make(), target, x, 4, cases.seed + 1), start=1
                    ):
                        _, astray = target.counts(after)
                        cases.expect(
                            not astray,
                            f"after {step} steps {astray} of {batch} chains are at no state",
                        )
