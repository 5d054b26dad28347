"""Steps of chains: one by one, or many as one compiled graph, by the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ebmkit.chains.chunks import MOST_GRAPHS, Case, Graph, graph_of
from ebmkit.chains.conduct import Conduct
from ebmkit.chains.guard import Held
from ebmkit.chains.parts import CompiledParts, called_by
from ebmkit.chains.steps import Stretch, step_by_step
from ebmkit.errors import UserError
from ebmkit.graphs import Work, tensors_of
from ebmkit.layers import energy_name, module_of, unbound
from ebmkit.lowering import (
    Unsuitable,
    complaint,
    layout,
    without_autocast,
)
from ebmkit.protocols import Energy, Sampler, State

LONGEST_CHUNK = 10
"""Steps of one graph at most: unrolling more saves little and takes long to compile."""
MOST_CALLS = 600
"""Operations of one graph at most, about."""
FEWEST_STEPS, LEAST_WORK = 100_000, 2e12
"""Runs of fewer steps in all, and of less work, are not even looked at: the look alone, which loads
the compiler, takes a second."""


class Plan(NamedTuple):
    """How steps are compiled."""

    length: int
    """Steps of a graph."""
    lower: bool
    """Whether the graph is compiled, and not only recorded."""
    parts: bool = False
    """Whether parts of a step are compiled, and the step itself is not."""


class Stepper:
    """Takes the steps of a run of chains, compiled where its conduct and the work to do say so."""

    def __init__(
        self,
        sampler: Sampler,
        energy: Energy,
        conduct: Conduct,
        *,
        total: int,
        watch: Sequence[str],
        moving: Sequence[str],
    ) -> None:
        self.sampler = sampler
        self.energy = energy
        self.conduct = conduct
        self.total = total
        self.watch = tuple(watch)
        self.moving = tuple(moving)
        """Scheduled parameters that change from step to step or from run to run."""
        self.module = module_of(energy)
        self.bound = unbound(energy)[1]
        self._graph: Graph | None = None
        self._parts: CompiledParts | None = None
        self._tensors: dict[str, Tensor] | None = None
        """The module's, which stay the same while chains run."""
        self._decided = conduct.compile == "off"
        if self._decided:
            conduct.decision = "eager: compile is off"

    @property
    def length(self) -> int:
        """How many steps to take at once."""
        return LONGEST_CHUNK if self._graph is None else self._graph.length

    def prepare(
        self, state: State, held: Held | None, noise: Any, values: Mapping[str, Any]
    ) -> None:
        """Decide whether steps like this one are compiled, and do it."""
        if self._decided:
            return
        self._decided = True
        brief = (id(self.sampler), id(self.module), layout(state), self.total)
        plans = self.conduct.plans
        try:
            if brief not in plans:
                plans[brief] = self._plan(state, held, noise, values)
            plan = plans[brief]
            if plan is not None and plan.parts:
                self._parts = CompiledParts(self.energy)
            elif plan is not None:
                case = Case(
                    *(self.sampler, self.energy, self.module, self.moving, self.watch),
                    *(plan.length, plan.lower),
                )
                self._graph = graph_of(case, state, held, noise, values, self._run, self._count)
            return
        except UserError:
            raise
        except Exception as error:
            self._refuse(error)
        plans[brief] = None

    def take(
        self,
        state: State,
        held: Held | None,
        noises: Sequence[Any],
        values: Sequence[Mapping[str, Any]],
    ) -> Stretch:
        """A step for each noise."""
        graph = self._graph
        try:
            if graph is not None and len(noises) == graph.length:
                return self._run(graph.run, state, held, noises, values)
            if self._parts is not None:
                with called_by(self._parts):
                    return self._eagerly(state, held, noises, values)
        except UserError:
            raise
        except Exception as error:
            self._graph = self._parts = None
            self._refuse(error)
        return self._eagerly(state, held, noises, values)

    def _eagerly(
        self,
        state: State,
        held: Held | None,
        noises: Sequence[Any],
        values: Sequence[Mapping[str, Any]],
    ) -> Stretch:
        return step_by_step(self.sampler, self.energy, state, held, noises, values, self.watch)

    def _run(
        self,
        run: Callable[..., Any],
        state: State,
        held: Held | None,
        noises: Sequence[Any],
        values: Sequence[Mapping[str, Any]],
    ) -> Stretch:
        device = state.x.device
        if self._tensors is None:
            self._tensors = {} if self.module is None else tensors_of(self.module)
        tensors = self._tensors
        moving = [
            [torch.tensor(keywords[n], dtype=torch.float64, device=device) for n in self.moving]
            for keywords in values
        ]
        with torch.no_grad(), without_autocast(device.type):
            return Stretch(*run(tensors, self.bound, state, held, list(noises), moving))

    def _plan(
        self, state: State, held: Held | None, noise: Any, values: Mapping[str, Any]
    ) -> Plan | None:
        """How steps like this one are compiled, which one of them tells; None where they are not."""
        conduct, steps = self.conduct, self.total * self.conduct.runs
        automatic, on_cuda = conduct.compile == "auto", state.x.device.type == "cuda"
        whole = getattr(self.sampler, "traceable", True) is not False
        if automatic and steps < FEWEST_STEPS and _work(self.module, state.x) * steps < LEAST_WORK:
            conduct.decision = f"eager: {steps} steps do not pay for compiling"
            return None
        if automatic and self.module is None:
            conduct.decision = "eager: the energy is no nn.Module"
            return None
        parts: dict[Any, int] = {}
        with Work() as work, called_by(partial(_told, parts, work)):
            self._eagerly(state, held, [noise], [values])
        if not whole and not parts:
            name = type(self.sampler).__name__
            conduct.decision = f"eager: how long a step of {name} takes depends on the chains"
            return None
        length, calls, words = 1, sum(parts.values()), f"compiled, in {len(parts)} parts"
        if whole:
            if conduct.compile != "step":
                most = MOST_CALLS // max(work.calls, 1)
                length = _chunk(min(max(most, 1), LONGEST_CHUNK), self.total)
            calls, words = work.calls * length, f"compiled, {length} steps a graph"
        if automatic and (why := work.not_worth(steps, calls)):
            conduct.decision = f"eager: {why}"
            if not on_cuda or not whole:
                return None
            conduct.decision += "; recorded as a CUDA graph"
            return Plan(length, lower=False)
        conduct.decision = words + ("; recorded as a CUDA graph" if on_cuda and whole else "")
        return Plan(length, lower=True, parts=not whole)

    def _count(self) -> None:
        self.conduct.built += 1
        if self.conduct.built > MOST_GRAPHS:
            raise Unsuitable(
                f"shapes, or attributes of the model, changed more than {MOST_GRAPHS} times"
            )

    def _refuse(self, error: Exception) -> None:
        sampler = f"sampler {type(self.sampler).__name__}"
        plain = isinstance(error, Unsuitable)
        why = str(error) if plain else complaint(error, self.energy, sampler)
        self.conduct.refuse(energy_name(self.energy), why)


def _told(
    found: dict[Any, int], work: Work, function: Any, energy: Energy, arguments: Any, fixed: Any
) -> Any:
    """A part's result, and in ``found`` how many operations it takes."""
    before = work.calls
    with called_by(None):
        result = function(energy, *arguments, **fixed)
    found[function, tuple(fixed.items())] = work.calls - before
    return result


def _work(module: nn.Module | None, x: Tensor) -> float:
    """About how many products a step takes: each weight once a chain, and those of convolutions once
    a pixel."""
    if module is None:
        return 0.0
    weights = sum(p.numel() for p in module.parameters())
    convolves = x.ndim > 3 and any(isinstance(m, _ConvNd) for m in module.modules())
    return float(weights * len(x) * (x[0, 0].numel() if convolves and len(x) else 1))


def _chunk(longest: int, total: int) -> int:
    """Steps of a graph, so that few steps of a run are left over for which there is no graph."""
    if total <= longest:
        return max(total, 1)
    whole = [n for n in range(longest, longest // 2, -1) if total % n == 0]
    return whole[0] if whole and total < 5 * longest else longest
