"""One run of chains: warm-up, stretches of steps, the guard between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor

from ebmkit.chains.conduct import Conduct
from ebmkit.chains.guard import Held, all_finite, anew, bad_rows, diverged, where_rows
from ebmkit.chains.kept import Kept, Moments
from ebmkit.chains.noise import Block, drawn
from ebmkit.chains.stepping import LONGEST_CHUNK, MOST_BYTES, Stepper, bytes_of
from ebmkit.chains.steps import Stretch
from ebmkit.errors import did_you_mean
from ebmkit.layers import unbound
from ebmkit.lowering import Unsuitable
from ebmkit.protocols import Energy, Metrics, Sampler, State

Progress = Callable[[int, int], object]
"""(steps done, steps in all), called between steps."""

CHECK_EVERY = 100
"""Steps after which chains that are to stop the run are looked for: looking waits for the device."""
TUNINGS = 6
"""How often a sampler is tuned along a warm-up, at lengths that double."""
_TRIES = 10


class Chain(NamedTuple):
    """What a run of chains leaves behind."""

    state: State
    """The sampler's last state."""
    metrics: Metrics
    """Each metric's mean over the steps after the warm-up; where the guard's policy is not to stop,
    over those in which it is finite, and ``chains_restarted`` or ``chains_frozen`` count over all."""
    trajectory: Tensor | None = None
    """(kept, batch, *event), or None where it was not asked for."""
    traces: dict[str, Tensor] | None = None
    """Fields of the state that were asked for, (kept, batch)."""
    moments: Moments | None = None
    """None where they were not asked for, and where nothing was kept."""
    bad: Tensor | None = None
    """Chains that are held still because their next step was not finite, (batch,); None where the
    guard's policy is to stop."""
    steps: int = 0
    """Steps done, warm-up not counted."""

    @property
    def x(self) -> Tensor:
        """The last points (batch, *event)."""
        x: Tensor = self.state.x
        return x


class ChainInterrupt(KeyboardInterrupt):
    """An interrupt while chains ran; ``chain`` is what they had got to, ``condition`` what a
    pipeline had conditioned each on."""

    def __init__(self, chain: Chain, condition: Tensor | None = None) -> None:
        self.chain = chain
        self.condition = condition
        super().__init__(f"chains interrupted after {chain.steps} steps")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.chain, self.condition), self.__dict__


@attrs.define
class Run:
    """One run of chains."""

    sampler: Sampler
    energy: Energy
    generator: torch.Generator
    conduct: Conduct
    stepper: Stepper
    values: Callable[[int], dict[str, float]]
    kept: Kept
    progress: Progress | None
    total: int
    state: State = None
    done: int = 0
    first: State = None
    """Where the chains started."""
    held: Held | None = None
    restarted: Tensor | None = None
    totals: dict[str, Tensor] = attrs.field(factory=dict)
    counted: dict[str, Any] = attrs.field(factory=dict)
    before_draw: Tensor | None = None
    """The generator's state before the numbers of the next steps were drawn; None where they are not
    yet, or steps have used them."""

    def through(
        self, x: Tensor, previous: State | None, state: State | None, warm_up: int, steps: int
    ) -> Chain:
        if state is not None:
            self.state = state
        elif previous is not None:
            self.state = anew(self.sampler, self.energy, previous, x)
        else:
            self.state = self.sampler.init(self.energy, x)
        self._check_fields()
        self.first = self.state
        if self.conduct.on_divergence != "stop":
            self.held = Held(bad_rows(self.state), self.state)
            self.restarted = torch.zeros((), dtype=torch.long, device=x.device)
        try:
            if warm_up:
                self._warm_up(warm_up)
                self.totals.clear()
                self.counted.clear()
            for stretch, n in self._stretches(steps):
                self.kept.add(stretch, n)
            self._look_back()
        except KeyboardInterrupt as interrupt:
            # What was drawn and not used is drawn again by who goes on from the state.
            if self.before_draw is not None:
                self.generator.set_state(self.before_draw)
            raise ChainInterrupt(self._chain()) from interrupt
        if not self.done and self.held is None:
            self._check()
        return self._chain()

    def _warm_up(self, steps: int) -> None:
        tune = getattr(self.sampler, "tune", None)
        *tuned, last = _windows(steps) if tune is not None else [steps]
        for length in tuned:
            self._advance(length)
            self.state = tune(self.state, self.energy)  # type: ignore[misc]
        # What was tuned last changes the step size that suits: some steps are left to find it.
        self._advance(last)
        settle = getattr(self.sampler, "settle", None)
        if settle is not None:
            self.state = settle(self.state)

    def _advance(self, steps: int) -> None:
        for _ in self._stretches(steps):
            pass

    def _stretches(self, steps: int) -> Iterator[tuple[Stretch, int]]:
        """A few steps each: what they left, and how many they were."""
        end, unchecked = self.done + steps, 0
        while self.done < end:
            n, noises = self._draw_ahead(end - self.done)
            values = [self.values(self.done + i) for i in range(n)]
            stretch = self.stepper.take(self.state, self.held, noises, values)
            # At once, so that no interrupt comes in between.
            self.state, self.held, self.done, self.before_draw = (*stretch[:2], self.done + n, None)
            self._add(stretch, n)
            unchecked += n
            if self.conduct.on_divergence == "restart":
                self._revive()
            elif self.held is None and (unchecked >= CHECK_EVERY or self.done == end):
                self._check()
                unchecked = 0
            yield stretch, n
            if self.progress is not None:
                self.progress(self.done, self.total)

    def _draw_ahead(self, most: int) -> tuple[int, Sequence[Any] | Block]:
        """How many steps are taken next, ``most`` at most, and their random numbers."""
        self.before_draw = self.generator.get_state()
        stepper = self.stepper
        if not stepper.planned:
            stepper.remember(self.state)
        if not stepper.planned:
            noise = self.sampler.draw(self.state, generator=self.generator)
            self.generator.set_state(self.before_draw)
            stepper.plan(self.state, self.held, noise, self.values(self.done))
        if 0 < stepper.steps <= most:
            n = stepper.steps
            try:
                return n, drawn(self.sampler, self.state, n, self.generator)
            except Unsuitable as error:
                stepper.refuse(error)
                self.generator.set_state(self.before_draw)
        noises = [self.sampler.draw(self.state, generator=self.generator)]
        n = min(LONGEST_CHUNK, most, max(MOST_BYTES // bytes_of(noises[0]), 1))
        noises += [self.sampler.draw(self.state, generator=self.generator) for _ in range(n - 1)]
        return n, noises

    def _add(self, stretch: Stretch, n: int) -> None:
        for name, value in stretch.totals.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value
            self.counted[name] = self.counted.get(name, 0) + stretch.counted.get(name, n)

    def _check_fields(self) -> None:
        there = getattr(self.state, "_fields", ())
        for name in self.kept.trace:
            if name not in there:
                raise ValueError(
                    f"trace: the state of {type(self.sampler).__name__} has no field {name!r}"
                    f"{did_you_mean(name, there)} (known: {', '.join(there)})"
                )

    def _check(self) -> None:
        # Which chains are bad is only looked for where some are.
        if not all_finite(self.state):
            raise diverged(bad_rows(self.state), self.sampler, self.done)

    def _look_back(self) -> None:
        """Chains whose last point is finite but its energy is not are told too. The next step would
        tell, but a loss that is given the points has none."""
        if self.held is None or not self.done:
            return
        lost = ~self.held.bad & self._of_no_energy(self.state)
        last = self.held.last
        if self.conduct.on_divergence == "freeze":
            # A force may be finite where the energy is not.
            last = where_rows(self._of_no_energy(last), self.first, last)
            self.state = where_rows(self.held.bad | lost, last, self.state)
        self.held = Held(self.held.bad | lost, last)
        if self.conduct.on_divergence == "restart":
            self._revive()

    def _of_no_energy(self, state: State) -> Tensor:
        """Chains at energies that are not finite, (batch,)."""
        with torch.no_grad():
            return ~self.energy(state.x).isfinite()

    def _revive(self) -> None:
        """Chains that were held still begin anew."""
        assert self.held is not None and self.restarted is not None
        starts, bad = self.conduct.starts, self.held.bad
        for _ in range(_TRIES):
            if not bool(bad.any()):
                return
            there = self.state.x
            condition = unbound(self.energy)[1].get("condition")
            source = there if starts is None else starts(len(there), self.generator, condition)
            x = torch.where(bad.view(-1, *[1] * (there.ndim - 1)), source, there)
            fresh = anew(self.sampler, self.energy, self.state, x)
            self.state = where_rows(bad, fresh, self.state)
            self.restarted = self.restarted + bad.sum()
            last = where_rows(bad, self.state, self.held.last)
            bad = bad_rows(self.state) | self._of_no_energy(self.state)
            self.held = Held(bad, last)
        if bool(bad.any()):
            more = f", and {_TRIES} starts anew were not finite either"
            raise diverged(bad, self.sampler, self.done, more=more)

    def _chain(self) -> Chain:
        kept, steps = self.kept, self.kept.steps
        metrics = {n: t / self.counted[n] for n, t in self.totals.items()} if steps else {}
        if self.held is not None and self.restarted is not None:
            frozen = self.held.bad.sum()
            self.conduct.count(self.restarted, frozen)
            if self.conduct.on_divergence == "restart":
                metrics["chains_restarted"] = self.restarted
            else:
                metrics["chains_frozen"] = frozen
        x = self.state.x
        return Chain(
            self.state,
            metrics,
            _stacked(kept.points, x, x.shape) if kept.trajectory else None,
            {n: _stacked(kept.traces.get(n, []), x, x.shape[:1]) for n in kept.trace}
            if kept.trace
            else None,
            kept.moments,
            self.held.bad if self.held and self.conduct.on_divergence == "freeze" else None,
            steps,
        )


def _stacked(values: list[Tensor], x: Tensor, shape: torch.Size) -> Tensor:
    return torch.cat(values) if values else x.new_empty((0, *shape))


def _windows(steps: int) -> list[int]:
    """Lengths that add up to ``steps``: the last is a fifth, and those before it double, so that each
    tuning has seen more than all before it."""
    growing = steps - steps // 5
    ends = sorted({growing // 2**i for i in range(TUNINGS)} | {0, steps})
    return [b - a for a, b in pairwise(ends)]
