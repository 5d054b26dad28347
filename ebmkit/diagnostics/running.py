"""The chains of a diagnosis: where they start, and how they are run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from ebmkit.chains import Chain
from ebmkit.chains.starts import starts_among, starts_around
from ebmkit.clocks import clock_of, scheduled_names, scheduled_value
from ebmkit.diagnostics.drift import Drift, drift_between
from ebmkit.fields import is_scheduled
from ebmkit.holding import evaluating
from ebmkit.objectives import bind
from ebmkit.protocols import Batch, Energy

if TYPE_CHECKING:
    from ebmkit.pipeline import Pipeline

MOST_DRAWS = 2000
KEPT_BYTES = 2**28
LONGER = 50
LEAST_LONGER = 10
DRIFTING = 64
_ROWS = 4096
_DATA = 1000


@attrs.frozen(eq=False)
class Chains:
    """A pipeline's chains at one condition."""

    pipeline: Pipeline
    data: Batch
    condition: Tensor | None
    generator: torch.Generator

    @classmethod
    def of(
        cls, pipeline: Pipeline, n: int, condition: Tensor | None, generator: torch.Generator
    ) -> Chains:
        """Such that ``n`` may start at once; where a condition is needed and none is given, it is that
        of the first row of the data."""
        drawn = pipeline.dataset.draw(max(n, _DATA), generator=generator)
        if not pipeline.conditional:
            return cls(pipeline, Batch(drawn.x), None, generator)
        if condition is None and drawn.condition is not None:
            condition = drawn.condition[0]
        return cls(pipeline, drawn, condition, generator)

    @property
    def moving(self) -> tuple[str, ...]:
        """The sampler's parameters that follow the chain's clock."""
        sampler = self.pipeline.sampler
        values = {name: scheduled_value(sampler, name) for name in scheduled_names(sampler)}
        return tuple(
            name for name, v in values.items() if is_scheduled(v) and clock_of(v) == "chain"
        )

    @property
    def _discrete(self) -> bool:
        parts = (self.pipeline.model, self.pipeline.sampler)
        return any(getattr(part, "discrete", False) for part in parts)

    def starts(self, n: int) -> Tensor:
        """Half where persistent chains are, or among the data; half as wide as the data without their
        dependence."""
        near, known = n // 2, self.pipeline.trainer.objective.chains
        source = self.data if known is None else known
        among = starts_among(source, near, generator=self.generator).x
        return torch.cat([among, self._around(n - near)])

    def training_starts(self, n: int) -> Tensor:
        """Where chains start in training: the persistent ones, or the data where the loss has chains of
        its own, else as ``Pipeline.sample`` starts them."""
        known = self.pipeline.trainer.objective.chains
        if known is None and hasattr(self.pipeline.loss, "k_steps"):
            known = self.data
        if known is None:
            return self._around(n)
        return starts_among(known, n, generator=self.generator).x

    def run(self, x: Tensor, steps: int, warm_up: int, thin: int) -> tuple[Chain, float]:
        """The kept chains, and the seconds that the steps after the warm-up took."""
        sampler: Any = self.pipeline.sampler
        with evaluating(self.pipeline.model):
            fields = getattr(sampler.init(self._energy(len(x)), x), "_fields", ())
        began = time.perf_counter()

        def progress(done: int, _: int) -> None:
            nonlocal began
            if done <= warm_up:
                began = time.perf_counter()

        chain = self._chains(
            x,
            steps=steps,
            warm_up=warm_up,
            thin=thin,
            trajectory=True,
            # E-BFMI compares successive steps, so it is to be had only where none is left out.
            trace=("hamiltonian",) if thin == 1 and "hamiltonian" in fields else (),
            progress=progress,
        )
        return chain, time.perf_counter() - began

    def drift(self, n: int, most: int) -> Drift | None:
        """Of 64 chains or ``n``; None where they would have no length."""
        pipeline, n = self.pipeline, max(n, DRIFTING)
        short: int = getattr(pipeline.loss, "k_steps", pipeline.evaluation.chain_steps)
        if short < 1:
            return None
        long = max(min(LONGER * short, most), LEAST_LONGER * short)
        ends = self._chains(self.training_starts(n), steps=short)
        on = self._chains(ends.x, steps=long - short, state=ends.state)
        return drift_between(self.energies(ends.x), self.energies(on.x), short, long)

    def energies(self, x: Tensor) -> Tensor:
        """Of points (n, *event), some at a time, (n,)."""
        with evaluating(self.pipeline.model), torch.no_grad():
            return torch.cat([self._energy(len(piece))(piece) for piece in torch.split(x, _ROWS)])

    def thinning(self, x: Tensor, steps: int) -> int:
        """The thinning that keeps at most 2,000 draws and 256 MiB of such chains."""
        draws = min(MOST_DRAWS, max(KEPT_BYTES // (x.numel() * x.element_size()), 4))
        return max(-(-steps // draws), 1)

    def _chains(self, x: Tensor, **keywords: Any) -> Chain:
        start = Batch(x, self._conditions(len(x)))
        return self.pipeline.run_chains(start, generator=self.generator, **keywords)

    def _energy(self, rows: int) -> Energy:
        return bind(self.pipeline.model, self._conditions(rows))

    def _conditions(self, rows: int) -> Tensor | None:
        if self.condition is None:
            return None
        return self.condition.to(self.pipeline.device).expand(rows, *self.condition.shape)

    def _around(self, n: int) -> Tensor:
        return starts_around(self.data, n, generator=self.generator, discrete=self._discrete).x
