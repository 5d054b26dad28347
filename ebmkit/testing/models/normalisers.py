"""Laws of models against what sums over all states, and integrals over all points, give."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmkit.holding import evaluating
from ebmkit.layers import offered
from ebmkit.testing import reference
from ebmkit.testing.integrals import chi_square, integral, n_states, states, stretched
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.models.energies import Shape, agree, energies_of, made, shapes_of
from ebmkit.testing.subject import Subject

FALSE_ALARM = 1e-8
"""Of each statistical test."""
_CHAINS = 40_000
_MOST_STATES = 4096
_SMALL: tuple[Shape, ...] = ((3,), (2, 3), (2, 2), (2,), (1,), (3, 3), (2, 2, 2))
_REACH = 9.0


class _Asked(NamedTuple):
    """A small model with one label for all of its points."""

    shape: Shape
    model: Any
    condition: int | None

    def energy(self) -> Any:
        """The model with its label bound, for whatever number of points."""
        return self.model if self.condition is None else _OneLabel(self.model, self.condition)

    def offered(self, name: str, *, rows: int) -> Any:
        """What it offers beside its call, with labels for so many points bound."""
        if self.condition is None:
            return offered(self.model, name)
        labels = torch.full((rows,), self.condition)
        return offered(functools.partial(self.model, condition=labels), name)

    def __str__(self) -> str:
        return f"events of {self.shape}" + (
            "" if self.condition is None else f", label {self.condition}"
        )


class _OneLabel:
    """A conditional model, for one label."""

    def __init__(self, model: Any, label: int) -> None:
        self.model, self.label = model, label

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x, condition=torch.full((len(x),), self.label))
        return found

    @property
    def n_uniforms(self) -> int:
        return int(self.model.n_uniforms)

    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        labels = torch.full((len(x),), self.label)
        found: Tensor = self.model.sweep(x, uniforms, condition=labels)
        return found


def _small(subject: Subject, seed: int) -> Iterator[_Asked]:
    """The model for events so small that sums and integrals are exact, by its first label."""
    for shape in shapes_of(subject, subject.shapes + _SMALL):
        model = made(subject, shape, seed)
        if getattr(model, "noise_conditional", False):
            continue
        if getattr(model, "discrete", False):
            if n_states(shape, getattr(model, "categories", None)) > _MOST_STATES:
                continue
        elif math.prod(shape) > 2:
            continue
        yield _Asked(shape, model, 0 if getattr(model, "conditional", False) else None)


def _asked(subject: Subject, name: str, *, discrete: bool = False) -> str:
    model = made(subject, shapes_of(subject)[0], 0)
    if discrete and not getattr(model, "discrete", False):
        return "its states are not discrete"
    if not hasattr(model, name):
        return f"it offers no {name}"
    if getattr(model, "noise_conditional", False):
        return "it is of many levels of noise"
    if not list(_small(subject, 0)):
        return "it takes no events so small that all of them can be gone through"
    return ""


def _chances(energies: Tensor) -> tuple[Tensor, float]:
    """Probabilities of states, and log Z."""
    log_z = (-energies).logsumexp(0)
    return (-energies - log_z).exp(), float(log_z)


def _all(asked: _Asked) -> tuple[Tensor, Tensor]:
    """All states, and their energies."""
    found = states(asked.shape, getattr(asked.model, "categories", None))
    with evaluating(asked.model), torch.no_grad():
        energies: Tensor = asked.energy()(found)
    return found, energies.double()


@law(
    "model",
    why="Quadrature, samplers of discrete states and evaluation go through all states.",
    means="an exact log Z or KL is NaN or infinite",
    applies=lambda subject: _asked(subject, "__call__", discrete=True),
)
def states_have_energies(subject: Subject, cases: Cases) -> None:
    for asked in _small(subject, cases.seed):
        with cases.case(f"{asked}, all states"):
            found, energies = _all(asked)
            cases.expect(
                bool(energies.isfinite().all()) and energies.shape == (len(found),),
                f"energies of states are {energies[~energies.isfinite()][:3].tolist()}",
            )


@law(
    "model",
    why="Log likelihoods are differences of an energy and log Z.",
    means="reported likelihoods are off by a constant, or compare models wrongly",
    applies=lambda subject: _asked(subject, "log_partition"),
)
def log_partition_right(subject: Subject, cases: Cases) -> None:
    for asked in _small(subject, cases.seed):
        said = asked.offered("log_partition", rows=1)()
        with cases.case(str(asked)):
            cases.expect(
                isinstance(said, Tensor) and said.ndim == 0,
                f"log_partition gives {said!r}, expected a tensor without dimensions",
            )
            if getattr(asked.model, "discrete", False):
                _, expected = _chances(_all(asked)[1])
                how, allowed = "summing over all states", 1e-8
            else:
                how = "integrating exp(−E)"
                expected, allowed = _integrated(asked)
                if allowed > 0.01:
                    # No formula is held against an integral that is not sure itself.
                    continue
            agree(
                cases,
                said.detach().double(),
                torch.tensor(expected, dtype=torch.float64),
                allowed,
                f"log_partition, and what {how} gives",
            )


def _integrated(asked: _Asked) -> tuple[float, float]:
    """log ∫ exp(−E), and what it may be off by."""
    size = math.prod(asked.shape)
    energy = asked.energy()

    def log_density(x: Tensor) -> Tensor:
        with evaluating(asked.model), torch.no_grad():
            found: Tensor = -energy(x.view(-1, *asked.shape))
        return found

    reach = torch.full((size,), _REACH, dtype=torch.float64)
    found = integral(stretched(log_density), -reach, reach)
    return found.log, 1e-4 + 10 * found.error


def swept(cases: Cases, asked: _Asked, energy: Any, seed: int, said: str) -> None:
    """Exact draws of all states stay exact draws under a sweep; a chi-square test."""
    categories = getattr(asked.model, "categories", None)
    found = states(asked.shape, categories)
    with evaluating(asked.model), torch.no_grad():
        chances, _ = _chances(energy(found).double())
    generator = reference.generator(seed + 7)
    drawn = torch.multinomial(chances, _CHAINS, replacement=True, generator=generator)
    x = found[drawn]
    n_uniforms = offered(energy, "n_uniforms")
    uniforms = torch.rand(_CHAINS, n_uniforms, generator=generator, dtype=torch.float64)
    before = x.clone()
    with evaluating(asked.model), torch.no_grad():
        after: Tensor = offered(energy, "sweep")(x, uniforms)
    cases.expect(
        after.shape == x.shape and after.dtype == x.dtype,
        f"{said} makes states {tuple(after.shape)} of {after.dtype}, expected "
        f"{tuple(x.shape)} of {x.dtype}",
    )
    cases.expect(torch.equal(x, before), f"{said} changes the states that it is given")
    places = (after.flatten(1)[:, None] == found.flatten(1)).all(2)
    cases.expect(bool(places.any(1).all()), f"{said} leaves what are no states of the model")
    counts = places.double().sum(0)
    statistic, chance = chi_square(counts, _CHAINS * chances)
    worst = int(((counts - _CHAINS * chances).abs() / (_CHAINS * chances).sqrt()).argmax())
    cases.expect(
        chance > FALSE_ALARM,
        f"{said}, from {_CHAINS} exact draws: state {found[worst].flatten().int().tolist()} has a "
        f"share of {float(counts[worst]) / _CHAINS:.4f}, expected {float(chances[worst]):.4f} "
        f"(χ² {statistic:.0f}, false-alarm rate {FALSE_ALARM:.0e})",
    )
    moved = (after != x).flatten(1).any(1).double().mean()
    cases.expect(
        float(moved) > 0 or float(chances.max()) > 0.999, f"{said} leaves every state as it is"
    )
    _reaches(cases, energy, asked, found, seed)


def _reaches(cases: Cases, energy: Any, asked: _Asked, found: Tensor, seed: int) -> None:
    """From one state, sweeps reach all that are likely."""
    generator = reference.generator(seed + 8)
    x = found[:1].expand(200, *asked.shape).clone()
    reached = torch.zeros(len(found), dtype=torch.bool)
    with evaluating(asked.model), torch.no_grad():
        chances, _ = _chances(energy(found).double())
        for _ in range(50):
            shape = (len(x), offered(energy, "n_uniforms"))
            x = offered(energy, "sweep")(
                x, torch.rand(shape, generator=generator, dtype=torch.float64)
            )
            reached |= (x.flatten(1)[:, None] == found.flatten(1)).all(2).any(0)
    likely = chances > 0.01
    missed = found[likely & ~reached]
    cases.expect(
        not len(missed),
        f"50 sweeps of 200 chains never reach {len(missed)} states of probability > 0.01",
    )


@law(
    "model",
    why="Gibbs sampling, and training by it, are the model's own sweeps.",
    means="Gibbs chains sample another distribution than the model's",
    applies=lambda subject: _asked(subject, "sweep", discrete=True),
)
def sweep_leaves_it_invariant(subject: Subject, cases: Cases) -> None:
    for asked in _small(subject, cases.seed):
        if n_states(asked.shape, getattr(asked.model, "categories", None)) > 100:
            continue
        with cases.case(str(asked)):
            swept(cases, asked, asked.energy(), cases.seed, "a sweep")


@law(
    "model",
    why="Annealed importance sampling goes from independent variables to the model by its bridge.",
    means="an estimated log Z is that of another model",
    applies=lambda subject: _asked(subject, "bridge", discrete=True),
)
def bridge_ends_right(subject: Subject, cases: Cases) -> None:
    for asked in _small(subject, cases.seed):
        found, energies = _all(asked)
        generator = reference.generator(cases.seed)
        base = torch.rand(asked.shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1
        likes = base.logit()
        if getattr(asked.model, "categories", None) is not None:
            base = base / base.sum(-1, keepdim=True)
            likes = base.log()
        bridge = asked.offered("bridge", rows=len(found))
        ends = {0.0: -(found * likes).flatten(1).sum(1), 1.0: energies}
        for heat, expected in ends.items():
            with cases.case(f"{asked}, inverse temperature {heat:g}"):
                end = energies_of(bridge(heat, base), found, cases.seed).double()
                agree(
                    cases,
                    end - end[0],
                    expected - expected[0],
                    1e-6,
                    "differences of energies, the first state's taken off",
                )
        with cases.case(f"{asked}, inverse temperature 0.5"):
            middle = bridge(0.5, base)
            cases.expect(
                bool(energies_of(middle, found, cases.seed).isfinite().all()),
                "energies are not finite",
            )
            if hasattr(middle, "sweep") and len(found) <= 100 and asked.condition is None:
                swept(cases, asked, middle, cases.seed, "a sweep of the bridge")
