"""Parallel tempering, also called replica exchange."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import attrs
import torch
from attrs import field
from attrs.validators import and_, ge, gt, lt, min_len, optional
from torch import Tensor

from ebmkit import Energy, Metrics, Sampler, State, doc, finite, offered, whole
from ebmkit_tempering._replicas import Tempered, cut, exchange, mapped, merged, points_of, real

_REPLICAS, _LOWEST = 5, 0.1


class ParallelTemperingState(NamedTuple):
    """Where the replicas are, and what the inner sampler needs of each."""

    x: Tensor
    """Points at β = 1, (batch, *event)."""
    inverse_temperature: Tensor
    """β of each replica, (batch, replicas)."""
    replicas: tuple[State, ...]
    """The inner sampler's states: one for each replica, or one of all whose tensors of chains are
    (batch, replicas, ...)."""


class ParallelTemperingNoise(NamedTuple):
    """The random numbers of one step."""

    inner: tuple[tuple[Any, ...], ...]
    """The inner sampler's, for each of its steps and each of its states."""
    uniform: Tensor
    """For each pair of neighbours, (batch, replicas − 1)."""


def _ladder(_: Any, attribute: attrs.Attribute[Any], value: list[float]) -> None:
    for beta in value:
        finite(None, attribute, beta)
    if value[0] != 1 or value[-1] <= 0 or any(a <= b for a, b in pairwise(value)):
        raise ValueError(
            f"{attribute.name}: expected numbers > 0 in strictly decreasing order from 1, got {value!r}"
        )


@attrs.frozen
class ParallelTempering:
    """Parallel tempering: replicas at higher temperatures, where barriers are low, exchange points.

    Each chain has replicas x_1 … x_R (batch, *event) at inverse temperatures 1 = β_1 > … > β_R > 0,
    moved independently by the inner sampler on the energies β_i E. After every ``swap_every`` of its
    steps neighbours exchange points with probability

    min(1, exp((β_i − β_{i+1}) (E(x_i) − E(x_{i+1}))))

    first the pairs of odd i, then those of even i; where an energy is not finite they do not. This
    leaves the product of the densities ∝ exp(−β_i E) as it is. The chains' points are those at β = 1.
    Discrete energies that offer ``sweep`` and ``bridge`` are those of the bridge in between, instead
    of β_i E. Neighbours should exchange at a rate of 0.2 or more (the metric ``swap_rate``, averaged
    over pairs), which takes replicas in number as the square root of the event's size.

    A step is ``swap_every`` inner steps and an exchange. The inner metrics are averaged over the
    replicas. An inner sampler that adapts (it offers ``restart``, ``tune`` or
    ``settle``) does so for each temperature. New chains by ``restart`` keep that, and with as many
    chains as before also the replicas at β < 1, unless a condition is bound to the energy.

    Raises ValueError where both ``inverse_temperatures`` and a rule for them are stated.

    Source: Exchange Monte Carlo Method and Application to Spin Glass Simulations (Hukushima and
    Nemoto, 1996); Tempered Markov Chain Monte Carlo for training of Restricted Boltzmann Machines
    (Desjardins, Courville, Bengio, Vincent and Delalleau, 2010).
    """

    sampler: Sampler = field(metadata=doc("what moves each replica"))
    inverse_temperatures: list[float] | None = field(
        default=None,
        validator=optional(and_(min_len(2), _ladder)),
        metadata=doc("β_i, from 1 strictly decreasing, > 0; a geometric sequence if unset"),
    )
    n_replicas: int | None = field(
        default=None,
        validator=optional(and_(whole, ge(2))),
        metadata=doc("R of a geometric sequence; 5 if unset"),
    )
    lowest: float | None = field(
        default=None,
        validator=optional(and_(finite, gt(0), lt(1))),
        metadata=doc("β_R of a geometric sequence; 0.1 if unset"),
    )
    swap_every: int = field(
        default=1,
        validator=and_(whole, ge(1)),
        metadata=doc("inner steps from one exchange to the next"),
    )

    def __attrs_post_init__(self) -> None:
        stated = [n for n in ("n_replicas", "lowest") if getattr(self, n) is not None]
        if self.inverse_temperatures is not None and stated:
            raise ValueError(
                f"{stated[0]}: expected none beside inverse_temperatures, got "
                f"{getattr(self, stated[0])!r}; state either the numbers or a geometric sequence"
            )

    @property
    def discrete(self) -> bool:
        return bool(getattr(self.sampler, "discrete", False))

    @property
    def categories(self) -> int | None:
        return getattr(self.sampler, "categories", None)

    @property
    def traceable(self) -> bool:
        return bool(getattr(self.sampler, "traceable", True))

    @property
    def ladder(self) -> tuple[float, ...]:
        """The inverse temperatures β_i."""
        if self.inverse_temperatures is not None:
            return tuple(self.inverse_temperatures)
        n, lowest = self.n_replicas or _REPLICAS, self.lowest or _LOWEST
        return tuple(lowest ** (i / (n - 1)) for i in range(n))

    def check(self, energy: Energy) -> None:
        """Raises UserError where the inner sampler cannot sample the energy at every temperature."""
        if check := getattr(self.sampler, "check", None):
            check(self._at(energy, self.ladder[-1]))

    def init(self, energy: Energy, x: Tensor) -> ParallelTemperingState:
        return self._start(energy, [x] * len(self.ladder), None)

    def restart(
        self, state: ParallelTemperingState, energy: Energy, x: Tensor
    ) -> ParallelTemperingState:
        hot = [x] * (len(self.ladder) - 1)
        if state.x.shape == x.shape and not isinstance(energy, functools.partial):
            hot = list(points_of(_flat(state), state.inverse_temperature.shape).unbind(1))[1:]
        return self._start(energy, [x, *hot], state.replicas)

    def tune(self, state: ParallelTemperingState, energy: Energy) -> ParallelTemperingState:
        tune = getattr(self.sampler, "tune", None)
        return state if tune is None else self._adapted(tune, energy, state)

    def settle(self, state: ParallelTemperingState) -> ParallelTemperingState:
        settle = getattr(self.sampler, "settle", None)
        if settle is None:
            return state
        return self._adapted(lambda inner, _: settle(inner), None, state)

    def draw(
        self, state: ParallelTemperingState, *, generator: torch.Generator
    ) -> ParallelTemperingNoise:
        x, states = state.x, _flat(state)
        inner = tuple(
            tuple(self.sampler.draw(each, generator=generator) for each in states)
            for _ in range(self.swap_every)
        )
        shape = (len(x), len(self.ladder) - 1)
        uniform = torch.rand(shape, generator=generator, device=x.device, dtype=real(x))
        return ParallelTemperingNoise(inner, uniform)

    def step(
        self,
        energy: Energy,
        state: ParallelTemperingState,
        noise: ParallelTemperingNoise,
        **inner: Any,
    ) -> tuple[ParallelTemperingState, Metrics]:
        states, beta = _flat(state), state.inverse_temperature
        energies = self._energies(energy, beta, len(states))
        totals: dict[str, Tensor] = {}
        for numbers in noise.inner:
            for i, own in enumerate(numbers):
                states[i], metrics = self.sampler.step(energies[i], states[i], own, **inner)
                for name, value in metrics.items():
                    totals[name] = totals[name] + value if name in totals else value
        points = points_of(states, beta.shape)
        order, swap_rate = exchange(self._differences(energy, beta, points), noise.uniform)
        moved = order != torch.arange(order.shape[1], device=order.device)
        points = torch.take_along_dim(points, order.view(*order.shape, *[1] * (points.ndim - 2)), 1)
        placed = zip(
            energies, states, cut(points, len(states)), cut(moved, len(states)), strict=True
        )
        calls = self.swap_every * len(states)
        return (
            _state([self._placed(*each) for each in placed], beta),
            {name: total / calls for name, total in totals.items()} | {"swap_rate": swap_rate},
        )

    def _start(
        self, energy: Energy, points: list[Tensor], previous: tuple[State, ...] | None
    ) -> ParallelTemperingState:
        x, n = points[0], len(points)
        beta = torch.tensor(self.ladder, device=x.device, dtype=real(x)).expand(len(x), n)
        # One call for all replicas takes a half to a fifth of the time of one for each, for a hundred
        # chains or fewer of a small network. What adapts has to do so for each temperature, and a
        # condition that is bound to an energy has a row for each chain.
        together = not (
            any(hasattr(self.sampler, name) for name in ("restart", "tune", "settle"))
            or isinstance(energy, functools.partial)
            or self._bridge(energy)
        )
        # A copy, for a graph takes one tensor in several places for one that always is in all of them.
        at = torch.stack(points, 1)
        starts = cut(at, 1 if together else n)
        energies = self._energies(energy, beta, len(starts))
        restart = getattr(self.sampler, "restart", None)
        if previous is None or restart is None:
            states = [
                self.sampler.init(e, start) for e, start in zip(energies, starts, strict=True)
            ]
        else:
            each = zip(previous, energies, starts, strict=True)
            states = [restart(old, e, start) for old, e, start in each]
        return _state(states, beta)

    def _bridge(self, energy: Energy) -> Any:
        # Discrete energies can be swept at their own energies in between, not at βE.
        return offered(energy, "bridge") if self.discrete and offered(energy, "sweep") else None

    def _energies(self, energy: Energy, beta: Tensor, states: int) -> list[Energy]:
        """The energy of each inner state."""
        if states == 1:
            return [Tempered(energy, beta.flatten())]
        return [self._at(energy, value) for value in self.ladder]

    def _at(self, energy: Energy, beta: float) -> Energy:
        if beta == 1:
            return energy
        bridge = self._bridge(energy)
        return bridge(beta, None) if bridge else Tempered(energy, beta)

    @torch.no_grad()
    def _differences(self, energy: Energy, beta: Tensor, points: Tensor) -> Tensor:
        """E_i(x_k) − E_{i+1}(x_k), (batch, points k, temperatures i)."""
        (batch, n), each = points.shape[:2], points.unbind(1)
        if self._bridge(energy):
            at = [self._at(energy, value) for value in self.ladder]
            found = torch.stack([torch.stack([e(x) for x in each], 1) for e in at], 2)
            return found[:, :, :-1] - found[:, :, 1:]
        if isinstance(energy, functools.partial):
            found = torch.stack([energy(x) for x in each], 1)
        else:
            found = energy(points.flatten(0, 1)).reshape(batch, n)
        return found[:, :, None] * (beta[:, None, :-1] - beta[:, None, 1:])

    def _placed(self, energy: Energy, state: State, x: Tensor, moved: Tensor) -> State:
        """The inner state at exchanged points. It may hold energies and forces at its temperature,
        so nothing but points can be exchanged."""
        if restart := getattr(self.sampler, "restart", None):
            # Of all chains: what it adapts may be what the tensors of its chains depend on.
            return restart(state, energy, x)
        return merged(moved, self.sampler.init(energy, x), state)

    def _adapted(
        self, adapt: Callable[[State, Energy], State], energy: Any, state: ParallelTemperingState
    ) -> ParallelTemperingState:
        states, beta = _flat(state), state.inverse_temperature
        energies = self._energies(energy, beta, len(states))
        return _state([adapt(s, e) for s, e in zip(states, energies, strict=True)], beta)


def _flat(state: ParallelTemperingState) -> list[State]:
    """The inner states as the inner sampler knows them, of rows."""
    if len(state.replicas) > 1:
        return list(state.replicas)
    ladder = state.inverse_temperature.shape

    def flatten(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1) if tensor.shape[:2] == ladder else tensor

    return [mapped(flatten, state.replicas[0])]


def _state(states: list[State], beta: Tensor) -> ParallelTemperingState:
    if len(states) > 1:
        return ParallelTemperingState(states[0].x, beta, tuple(states))

    def unflatten(tensor: Tensor) -> Tensor:
        own = tensor.ndim and len(tensor) == beta.numel()
        return tensor.reshape(*beta.shape, *tensor.shape[1:]) if own else tensor

    replicas = mapped(unflatten, states[0])
    return ParallelTemperingState(replicas.x[:, 0], beta, (replicas,))
