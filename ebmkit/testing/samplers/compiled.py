"""Samplers whose steps are traced into graphs and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ebmkit.chains import sample
from ebmkit.chains.conduct import CompileChains
from ebmkit.holding import frozen
from ebmkit.loops import loops_in
from ebmkit.lowering import CompileWarning, made_graph
from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, NotAsked, law
from ebmkit.testing.samplers.stationary import keywords
from ebmkit.testing.samplers.walks import (
    begun,
    event_shapes,
    landscape,
    mapped,
    starts,
    stepped,
    tensors,
    unsuited,
)
from ebmkit.testing.subject import Subject


def _traceable(subject: Subject) -> str:
    if said := unsuited(subject):
        return said
    if getattr(subject.make(), "traceable", True) is False:
        return "it says by traceable = False that its steps cannot be traced"
    return ""


@law(
    "sampler",
    why="Whether chains are compiled is decided by what pays, and must not change what comes out.",
    means="samples depend on how they are computed, or chains are slow with a warning",
    applies=_traceable,
)
def compiled_steps_are_eager_ones(subject: Subject, cases: Cases) -> None:
    shape = event_shapes(subject)[0]
    energy = landscape(shape, torch.float64)
    x = starts(subject, 6, shape, torch.float64, cases.seed)
    with cases.case(f"4 steps of 6 chains of shape {shape}, as a graph"):
        sampler = subject.make()
        loops = _traced(cases, sampler, energy, begun(sampler, energy, x))
    # Of loops the compiler takes minutes, and what is compiled is the graph, which has been compared.
    if not loops:
        with cases.case(f"4 steps of 6 chains of shape {shape}, compiled"):
            _compiled(cases, subject, energy, x)


def _traced(cases: Cases, sampler: Any, energy: Any, state: Any) -> bool:
    """Compares steps by a graph with eager ones, and says whether the graph has loops in it."""
    values = keywords(sampler)
    generator = reference.generator(cases.seed)

    def step(state: Any, noise: Any) -> Any:
        return sampler.step(energy, state, noise, **values)[0]

    noises = [sampler.draw(state, generator=generator) for _ in range(4)]
    eager, first = state, _laid((state, noises[0]))
    try:
        graph = frozen(energy, lambda: made_graph(step, *first, captures=True))
    except Exception as error:
        cases.expect(
            False,
            f"its step cannot be traced: {type(error).__name__}: {error}; a sampler of which that is "
            "so says traceable = False",
        )
        raise
    for noise in noises:
        state = graph(*_laid((state, noise)))
        eager, _ = stepped(sampler, energy, eager, noise, values)
    for (place, one), (_, other) in zip(tensors(state), tensors(eager), strict=True):
        cases.expect(
            torch.allclose(one.double(), other.double(), rtol=1e-6, atol=1e-6, equal_nan=True),
            f"{place} by a graph of the step is not what it is by the step itself; what depends on "
            "the first step's numbers is fixed in the graph",
        )
    return bool(loops_in(graph))


def _laid(tree: Any) -> Any:
    """Its tensors, each in memory of its own, as a graph was made for them: it takes one that stands
    in several places for one that always stands in all of them."""
    return mapped(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), tree)


def _compiled(cases: Cases, subject: Subject, energy: Any, x: Tensor) -> None:
    ends, said = _off_and_on(subject.make, energy, x, cases.seed)
    if said:
        # Where the kit's own chains are not compiled either, it is not the sampler's fault.
        shape = (3,)
        own = landscape(shape, torch.float64), torch.zeros(6, *shape, dtype=torch.float64)
        if _off_and_on(reference.RandomWalk, *own, cases.seed)[1]:
            raise NotAsked(f"no chains can be compiled here: {'; '.join(said)}")
    cases.expect(
        not said, f"{'; '.join(said)}; a sampler that cannot be traced says traceable = False"
    )
    off = float((ends[0] - ends[1]).abs().max())
    cases.expect(off < 1e-6, f"compiled chains are {off:.3g} away from eager ones after 4 steps")


def _off_and_on(
    make: Callable[[], Any], energy: Any, x: Tensor, seed: int
) -> tuple[list[Tensor], list[str]]:
    """Where chains end, eager and compiled, and what compiling warned of."""
    how: tuple[CompileChains, ...] = ("off", "step")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CompileWarning)
        ends = [
            sample(make(), energy, x, steps=4, generator=reference.generator(seed), compile=compile)
            for compile in how  # noqa: A001
        ]
    return ends, [str(w.message) for w in caught if issubclass(w.category, CompileWarning)]
