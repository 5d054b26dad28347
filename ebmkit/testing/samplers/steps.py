"""Samplers as pure functions: of their arguments alone, and changing none of them."""

from __future__ import annotations

import io
import random

import torch
from torch import Tensor

from ebmkit.testing import reference
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.samplers.stationary import keywords
from ebmkit.testing.samplers.walks import (
    BATCHES,
    DTYPES,
    begun,
    event_shapes,
    landscape,
    mapped,
    over,
    same,
    starts,
    stepped,
    tensors,
    told,
    unsuited,
    walked,
)
from ebmkit.testing.subject import Subject


@law(
    "sampler",
    why="Chains are kept, compiled and restored as tensors whose shapes and dtypes stay.",
    means="chains stop with an error, or lose digits, at other batches, events or dtypes",
    applies=unsuited,
)
def state_keeps_shapes_and_dtypes(subject: Subject, cases: Cases) -> None:
    def check(batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        sampler, energy = subject.make(), landscape(shape, dtype)
        x = starts(subject, batch, shape, dtype, cases.seed)
        state = begun(sampler, energy, x)
        cases.expect(
            isinstance(state, tuple) and "x" in getattr(state, "_fields", ()),
            f"expected a NamedTuple with a field x from init, got {type(state).__name__}",
        )
        for step in range(3):
            noise = sampler.draw(state, generator=reference.generator(cases.seed + step))
            after, metrics = stepped(sampler, energy, state, noise, keywords(sampler))
            cases.expect(
                type(after) is type(state),
                f"expected {type(state).__name__} after a step, got {type(after).__name__}",
            )
            for (place, new), (_, old) in zip(tensors(after), tensors(state), strict=True):
                cases.expect(
                    (new.shape, new.dtype) == (old.shape, old.dtype),
                    f"expected {place} to stay {told(old)} in a step, got {told(new)}",
                )
            cases.expect(
                (after.x.shape, after.x.dtype) == (x.shape, x.dtype),
                f"expected points {told(x)} as at the start, got {told(after.x)}",
            )
            for name, value in metrics.items():
                cases.expect(
                    isinstance(value, Tensor) and value.ndim == 0 and not value.requires_grad,
                    f"expected metric {name} to be a detached tensor without dimensions, got {value!r}",
                )
            state = after

    over(cases, 12, check, batch=BATCHES, shape=event_shapes(subject), dtype=DTYPES)


@law(
    "sampler",
    why="What belongs to a chain is told from what belongs to all chains by its first dimension.",
    means="chains that are restarted or kept in a buffer take over tensors of others",
    applies=unsuited,
)
def rows_belong_to_chains(subject: Subject, cases: Cases) -> None:
    for shape in event_shapes(subject):
        # As many chains as the event has numbers along a side; of one chain nothing can be told.
        for batch in sorted({*shape, 4} - {1}):
            states = [
                begun(subject.make(), landscape(shape, torch.float32), x)
                for x in (
                    starts(subject, n, shape, torch.float32, cases.seed) for n in (batch, batch + 1)
                )
            ]
            with cases.case(f"batch {batch}, shape {shape}"):
                for (place, one), (_, other) in zip(*map(tensors, states), strict=True):
                    rows = one.ndim > 0 and len(one) == batch
                    cases.expect(
                        rows == (one.shape != other.shape),
                        f"expected the batch as the first dimension of {place} or in none of its "
                        f"dimensions, got {tuple(one.shape)} for {batch} chains and "
                        f"{tuple(other.shape)} for {batch + 1}",
                    )


@law(
    "sampler",
    why="The state before a step is needed after it, for chains that diverge and for trajectories.",
    means="points that were kept, or the data that chains started at, change afterwards",
    applies=unsuited,
)
def arguments_stay_as_they_are(subject: Subject, cases: Cases) -> None:
    def check(batch: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        sampler, energy = subject.make(), landscape(shape, dtype)
        x = starts(subject, batch, shape, dtype, cases.seed)
        was = x.clone()
        state = begun(sampler, energy, x)
        for step in range(3):
            noise = sampler.draw(state, generator=reference.generator(cases.seed + step))
            kept = mapped(torch.clone, (state, noise))
            after, _ = stepped(sampler, energy, state, noise, keywords(sampler))
            where = same(kept, (state, noise))
            cases.expect(not where, f"a step changed its argument in place: {where}")
            cases.expect(torch.equal(x, was), "the points given to init were changed in place")
            again, _ = stepped(sampler, energy, state, noise, keywords(sampler))
            where = same(after, again)
            cases.expect(not where, f"the same step taken twice differs in {where}")
            state = after

    over(cases, 8, check, batch=(1, 5), shape=event_shapes(subject), dtype=DTYPES)


@law(
    "sampler",
    why="Runs are repeated exactly by one generator, which is the only source of randomness.",
    means="the same seed gives other samples, and sampling changes what other code draws",
    applies=unsuited,
)
def randomness_is_the_generators(subject: Subject, cases: Cases) -> None:
    for shape in event_shapes(subject):
        energy = landscape(shape, torch.float32)
        x = starts(subject, 5, shape, torch.float32, cases.seed)
        found = []
        with cases.case(f"shape {shape}"):
            for _ in range(2):
                before = torch.random.get_rng_state(), random.getstate()
                sampler = subject.make()
                state = begun(sampler, energy, x)
                found.append(walked(sampler, energy, state, 3, reference.generator(cases.seed + 1)))
                cases.expect(
                    torch.equal(before[0], torch.random.get_rng_state())
                    and before[1] == random.getstate(),
                    "numbers were drawn from a global random state instead of the generator",
                )
            where = same(*found)
            cases.expect(not where, f"two runs by one seed differ in {where}")


@law(
    "sampler",
    why="Chains in training must not change how the model is trained.",
    means="gradients of the parameters hold those of chains, or memory grows with every step",
    applies=unsuited,
)
def parameters_get_no_gradients(subject: Subject, cases: Cases) -> None:
    for shape in event_shapes(subject):
        sampler, energy = subject.make(), landscape(shape, torch.float32)
        kept = [parameter.detach().clone() for parameter in energy.parameters()]
        with cases.case(f"shape {shape}"):
            # Without the kernel, which holds parameters detached while chains run.
            state = sampler.init(energy, starts(subject, 5, shape, torch.float32, cases.seed))
            for step in range(2):
                noise = sampler.draw(state, generator=reference.generator(cases.seed + step))
                state, _ = sampler.step(energy, state, noise, **keywords(sampler))
            for place, tensor in tensors(state):
                cases.expect(
                    not tensor.requires_grad, f"expected {place} detached, got one with a graph"
                )
            for (name, parameter), was in zip(energy.named_parameters(), kept, strict=True):
                cases.expect(parameter.grad is None, f"parameter {name} got a gradient")
                cases.expect(
                    parameter.requires_grad, f"parameter {name} was left not requiring a gradient"
                )
                cases.expect(
                    torch.equal(parameter, was), f"parameter {name} was changed by a chain"
                )


@law(
    "sampler",
    why="A run that was interrupted goes on as if it had not been.",
    means="a run resumed from a checkpoint differs from one that went through",
    applies=unsuited,
)
def chains_go_on_from_what_is_saved(subject: Subject, cases: Cases) -> None:
    def check(shape: tuple[int, ...], dtype: torch.dtype, half: int) -> None:
        energy = landscape(shape, dtype)
        x = starts(subject, 4, shape, dtype, cases.seed)
        sampler = subject.make()
        straight = walked(
            sampler, energy, begun(sampler, energy, x), 6, reference.generator(cases.seed)
        )
        sampler, generator = subject.make(), reference.generator(cases.seed)
        state = walked(sampler, energy, begun(sampler, energy, x), half, generator)
        file = io.BytesIO()
        torch.save(([tensor for _, tensor in tensors(state)], generator.get_state()), file)
        file.seek(0)
        saved, drawn = torch.load(file, weights_only=True)
        # Other chains come in between, and others go on.
        other = begun(subject.make(), energy, starts(subject, 4, shape, dtype, cases.seed + 1))
        walked(subject.make(), energy, other, 2, reference.generator(cases.seed + 1))
        left = iter(saved)
        state = mapped(lambda _: next(left), state)
        generator = reference.generator(0)
        generator.set_state(drawn)
        again = walked(subject.make(), energy, state, 6 - half, generator)
        where = same(straight, again)
        cases.expect(
            not where,
            f"saved after {half} steps and gone on from, after 6 steps {where} is not what it is "
            "without; all that the next step needs belongs into the state",
        )

    over(cases, 6, check, shape=event_shapes(subject), dtype=DTYPES, half=(1, 3))
