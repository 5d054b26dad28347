"""Steps of chains: one by one, or many as one compiled graph, by the same code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ebmkit.chains.chunks import MOST_GRAPHS, Case, Run, graph_of, keep, kept_with
from ebmkit.chains.conduct import Conduct
from ebmkit.chains.guard import Held
from ebmkit.chains.noise import Block
from ebmkit.chains.steps import Stretch, step_by_step
from ebmkit.errors import UserError
from ebmkit.graphs import Work, tensors_of
from ebmkit.layers import energy_name, module_of, unbound
from ebmkit.lowering import Unsuitable, complaint, layout, tensors_in, without_autocast
from ebmkit.protocols import Energy, Sampler, State

LONGEST_CHUNK = 10
"""Steps of one graph at most: unrolling more saves little and takes long to compile."""
AHEAD_STEPS, AHEAD_BYTES = 100, 2**20
"""Random numbers, and points, of a graph that goes through its steps in a loop: for at most so many
steps, of at most so many bytes."""
LOOPS = Version(torch.__version__) >= Version("2.13")
"""Whether torch's compiler can go through a loop that changes what it carries along; 2.12.1 cannot."""
MOST_BYTES = 2**26
"""Those of steps that are written out, or run eagerly, may be as large as this; of one, of any size."""
MOST_CALLS = 600
"""Operations of one graph at most, about."""
FEWEST_STEPS, LEAST_WORK = 100_000, 2e12
"""Runs of fewer steps in all, and of less work, are not even looked at: the look alone, which loads
the compiler, takes a second."""


class Plan(NamedTuple):
    """How steps are compiled."""

    length: int
    """Steps of a graph that are written out one after another."""
    rounds: int
    """How often it goes through them."""
    lower: bool
    """Whether the graph is compiled, and not only recorded."""

    @property
    def steps(self) -> int:
        """Steps of a graph."""
        return self.length * self.rounds


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
        self._brief: Any = None
        """What a plan is found by."""
        self._plan: Plan | None = None
        self._run: Run | None = None
        self._tensors: dict[str, Tensor] | None = None
        """The module's, which stay the same while chains run."""
        self.planned = conduct.compile == "off"
        """Whether it is known if steps are compiled."""
        if self.planned:
            conduct.decision = "eager: compile is off"

    @property
    def steps(self) -> int:
        """How many steps are compiled as one graph; 0 where they run eagerly."""
        return 0 if self._plan is None else self._plan.steps

    def remember(self, state: State) -> None:
        """Find what was planned for runs like this one, if there were any."""
        self._brief = (id(self.sampler), id(self.module), layout(state), self.total)
        plans = self.conduct.plans
        if self._brief in plans:
            self._plan, self.planned = plans[self._brief], True

    def plan(self, state: State, held: Held | None, noise: Any, values: Mapping[str, Any]) -> None:
        """Decide whether steps like this one are compiled, and how many at once."""
        self.planned = True
        plans = self.conduct.plans
        plans[self._brief] = None
        try:
            plans[self._brief] = self._plan = self._made_plan(state, held, noise, values)
        except UserError:
            raise
        except Exception as error:
            self.refuse(error)

    def take(
        self,
        state: State,
        held: Held | None,
        noises: Sequence[Any] | Block,
        values: Sequence[Mapping[str, Any]],
    ) -> Stretch:
        """A step for each noise; those of a block by a graph."""
        if isinstance(noises, Block):
            try:
                if self._run is None:
                    self._run = self._found(state, held, noises, values[0])
                *stretch, _ = self._call(self._run, state, held, noises, values)
                return Stretch(*stretch)
            except UserError:
                raise
            except Exception as error:
                self.refuse(error)
            noises = noises.each()
        return self._eagerly(state, held, noises, values)

    def refuse(self, error: Exception) -> None:
        """Steps run eagerly from now on, and that is said once."""
        self._plan = self._run = self.conduct.plans[self._brief] = None
        sampler = f"sampler {type(self.sampler).__name__}"
        plain = isinstance(error, Unsuitable)
        why = str(error) if plain else complaint(error, self.energy, sampler)
        self.conduct.refuse(energy_name(self.energy), why)

    def _eagerly(
        self,
        state: State,
        held: Held | None,
        noises: Sequence[Any],
        values: Sequence[Mapping[str, Any]],
    ) -> Stretch:
        return step_by_step(self.sampler, self.energy, state, held, noises, values, self.watch)

    def _found(
        self, state: State, held: Held | None, block: Block, values: Mapping[str, Any]
    ) -> Run:
        assert self._plan is not None
        case = self._case(self._plan)
        return graph_of(case, state, held, block, values, self._call, self._count)

    def _call(
        self,
        run: Run,
        state: State,
        held: Held | None,
        block: Block,
        values: Sequence[Mapping[str, Any]],
    ) -> Any:
        device = state.x.device
        if self._tensors is None:
            self._tensors = {} if self.module is None else tensors_of(self.module)
        moving = None
        if self.moving:
            rows = [[keywords[name] for name in self.moving] for keywords in values]
            moving = torch.tensor(rows, dtype=torch.float64, device=device)
        with torch.no_grad(), without_autocast(device.type):
            return run(self._tensors, self.bound, state, held, block.noise, moving)

    def _made_plan(
        self, state: State, held: Held | None, noise: Any, values: Mapping[str, Any]
    ) -> Plan | None:
        """How steps like this one are compiled, which one of them tells; None where they are not."""
        conduct, steps = self.conduct, self.total * self.conduct.runs
        automatic, on_cuda = conduct.compile == "auto", state.x.device.type == "cuda"
        if getattr(self.sampler, "traceable", True) is False:
            name = type(self.sampler).__name__
            conduct.decision = f"eager: {name} says that its step cannot be traced into a graph"
            return None
        if automatic and steps < FEWEST_STEPS and _work(self.module, state.x) * steps < LEAST_WORK:
            conduct.decision = f"eager: {steps} steps do not pay for compiling"
            return None
        if automatic and self.module is None:
            conduct.decision = "eager: the energy is no nn.Module"
            return None
        work = self._work(state, held, noise, values)
        recorded = on_cuda and not work.loops
        length = rounds = 1
        if conduct.compile != "step":
            most = min(
                MOST_CALLS // max(work.calls, 1), MOST_BYTES // bytes_of(noise), LONGEST_CHUNK
            )
            length = _chunk(max(most, 1), self.total)
            # Chains that begin anew are looked for after each graph, and a loop cannot be recorded.
            if LOOPS and not on_cuda and conduct.on_divergence != "restart":
                rounds = _rounds(length, self.total, noise, state.x)
        lower = True
        conduct.decision = f"compiled, {length * rounds} steps a graph"
        if automatic and (why := work.not_worth(steps, work.calls * length)):
            conduct.decision, lower = f"eager: {why}", False
            if not recorded:
                return None
        if recorded:
            conduct.decision += "; recorded as a CUDA graph"
        return Plan(length, rounds, lower)

    def _work(self, state: State, held: Held | None, noise: Any, values: Mapping[str, Any]) -> Work:
        """What a step does, seen by taking one."""
        case = self._case(Plan(1, 1, lower=False))
        kept, key = kept_with(case, "work"), case.key(state, held, noise, values)
        if key not in kept:
            with Work() as work:
                self._eagerly(state, held, [noise], [values])
            keep(kept, key, work)
        found: Work = kept[key]
        return found

    def _case(self, plan: Plan) -> Case:
        return Case(*(self.sampler, self.energy, self.module, self.moving, self.watch), *plan)

    def _count(self) -> None:
        self.conduct.built += 1
        if self.conduct.built > MOST_GRAPHS:
            raise Unsuitable(
                f"shapes, or attributes of the model, changed more than {MOST_GRAPHS} times"
            )


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


def _rounds(length: int, total: int, noise: Any, x: Tensor) -> int:
    """How often a graph goes through ``length`` steps: within what memory its random numbers and points
    may take, and so that few steps of a run are left over."""
    size = bytes_of((noise, x))
    whole = total // length
    most = min(AHEAD_STEPS // length, AHEAD_BYTES // (size * length), whole)
    return min(range(most, most // 2, -1), key=lambda n: whole % n) if most > 1 else 1


def bytes_of(tree: Any) -> int:
    """Bytes of a tree's tensors, or 1 where there are none."""
    return max(sum(x.numel() * x.element_size() for x in tensors_in(tree)), 1)
