"""Run a pipeline's chains and say whether they have arrived."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import torch
from torch import Tensor

from ebmkit.chains import Chain
from ebmkit.diagnostics.drift import Drift
from ebmkit.diagnostics.running import Chains
from ebmkit.diagnostics.traces import (
    FEWEST_DRAWS,
    e_bfmi,
    effective_sample_size,
    mean_error,
    r_hat,
)
from ebmkit.diagnostics.training import TrainingPath, training_path
from ebmkit.diagnostics.verdict import Evidence, Spread, Verdict, judged
from ebmkit.errors import DivergenceError, UserError

if TYPE_CHECKING:
    from ebmkit.pipeline import Pipeline


@attrs.frozen(eq=False)
class Diagnosis:
    """What ``diagnose`` found. A number is None where it could not be had."""

    verdict: Verdict
    reason: str
    chains: int
    steps: int
    warm_up: int
    thin: int
    notes: tuple[str, ...] = ()
    """What to know when reading the numbers."""
    r_hat: Spread | None = None
    ess_bulk: Spread | None = None
    ess_tail: Spread | None = None
    worst_number: tuple[int, ...] | None = None
    """Place in the event of the number with the worst R̂."""
    still_numbers: int | None = None
    """Numbers of the event that are the same in every draw of every chain; they have no R̂."""
    mean_energy: float | None = None
    mean_energy_error: float | None = None
    """Monte Carlo standard error."""
    acceptance_rate: float | None = None
    seconds: float | None = None
    """Of the steps after the warm-up."""
    ess_per_second: float | None = None
    """The least bulk ESS over those."""
    e_bfmi: tuple[float, ...] | None = None
    """Of each chain, where the sampler's state has a ``hamiltonian`` and every step is kept."""
    drift: Drift | None = None
    training: TrainingPath | None = None
    condition: Tensor | None = attrs.field(default=None, repr=False)
    """What all chains were conditioned on, (...)."""
    trajectory: Tensor | None = attrs.field(default=None, repr=False)
    """(draws, chains, *event)"""
    energies: Tensor | None = attrs.field(default=None, repr=False)
    """(draws, chains)"""
    hamiltonians: Tensor | None = attrs.field(default=None, repr=False)
    """(draws, chains)"""

    def as_dict(self) -> dict[str, Any]:
        """Everything but the traces, as JSON can say it: None for what is not finite."""
        kept = attrs.asdict(
            self,
            filter=lambda attribute, _: (
                attribute.name not in ("condition", "trajectory", "energies", "hamiltonians")
            ),
        )
        condition = None if self.condition is None else self.condition.tolist()
        plain: dict[str, Any] = _plain({**kept, "condition": condition})
        return plain


def diagnose(
    pipeline: Pipeline,
    *,
    chains: int = 16,
    steps: int = 2000,
    warm_up: int = 1000,
    thin: int | None = None,
    condition: Tensor | None = None,
    metrics: Iterable[Mapping[str, Any]] = (),
    generator: torch.Generator | None = None,
) -> Diagnosis:
    """Run ``chains`` chains of the pipeline's sampler on its model and judge them.

    Half of them start where the loss's persistent chains are, or at data where it has none, the
    others at points as wide as the data without their dependence, so that chains which do not forget
    where they started are found out. After ``warm_up`` steps every ``thin``-th of ``steps`` is kept,
    by default so that there are at most 2,000 draws in 256 MiB. R̂ and effective sample sizes are of
    every number of the event and of the energy. A conditional model is sampled at one ``condition``
    (...) in all chains, by default that of a data row.

    For the drift as many chains, or 64, start as training starts them and run for the loss's
    ``k_steps`` (without such, ``evaluation.chain_steps``), then on to up to 50 times that.
    ``metrics`` are records of the training's metrics in their order. Without a generator the draws
    are those of the run's seed.

    A chain that diverges is a verdict, no error.

    Raises:
        UserError: the pipeline has no sampler.
        ValueError: fewer than two chains, or than four draws, or a number out of range.
    """
    if pipeline.sampler is None:
        raise UserError("the pipeline has no [sampler] to diagnose; add one")
    if chains < 2 or steps < FEWEST_DRAWS or warm_up < 0:
        raise ValueError(
            f"expected chains ≥ 2, steps ≥ {FEWEST_DRAWS} and warm_up ≥ 0, got chains={chains}, "
            f"steps={steps}, warm_up={warm_up}"
        )
    generator = generator if generator is not None else pipeline.generator("diagnosis")
    ours = Chains.of(pipeline, chains, condition, generator)
    starts = ours.starts(chains)
    if thin is None:
        thin = ours.thinning(starts, steps)
    if thin < 1 or steps // thin < FEWEST_DRAWS:
        raise ValueError(
            f"expected thin ≥ 1 that keeps {FEWEST_DRAWS} draws at least, got thin={thin} of "
            f"steps={steps}"
        )
    notes = tuple(
        f"{name} follows the chain's clock, so the rule by which chains move changes along them"
        for name in ours.moving
    )
    told = _Told(chains, steps, warm_up, thin, notes, training_path(metrics), ours.condition)
    try:
        chain, seconds = ours.run(starts, steps, warm_up, thin)
        drift = None if ours.moving else ours.drift(chains, warm_up + steps)
        assert chain.trajectory is not None
        energies = ours.energies(chain.trajectory.flatten(0, 1)).view(-1, chains)
    except DivergenceError as error:
        return Diagnosis("diverging", str(error), **told._asdict())
    away = chain.trajectory - ours.data.x.mean(0)
    distances = away.reshape(-1, chains, math.prod(away.shape[2:])).norm(dim=2)
    return _diagnosed(told, chain, energies, distances, drift, seconds)


class _Told(NamedTuple):
    """What is known of a diagnosis before its chains have run."""

    chains: int
    steps: int
    warm_up: int
    thin: int
    notes: tuple[str, ...]
    training: TrainingPath | None
    condition: Tensor | None


class _Spreads(NamedTuple):
    r_hat: Spread
    ess_bulk: Spread
    ess_tail: Spread


def _diagnosed(
    told: _Told,
    chain: Chain,
    energies: Tensor,
    distances: Tensor,
    drift: Drift | None,
    seconds: float,
) -> Diagnosis:
    x = chain.trajectory
    assert x is not None
    still = (x == x[0, 0]).flatten(0, 1).all(0)
    hats = r_hat(x)
    hamiltonians = (chain.traces or {}).get("hamiltonian")
    fractions = None if hamiltonians is None else e_bfmi(hamiltonians)
    bulk, tail = (effective_sample_size(x, kind) for kind in ("bulk", "tail"))
    spreads = _Spreads(
        _spread(hats, still, r_hat(energies), worst=max),
        _spread(bulk, still, effective_sample_size(energies), worst=min),
        _spread(tail, still, effective_sample_size(energies, "tail"), worst=min),
    )
    moving = not bool(still.all())
    verdict, reason = judged(
        Evidence(
            *spreads,
            moving=moving,
            lost=sum(int(chain.metrics.get(f"chains_{w}", 0)) for w in ("restarted", "frozen")),
            energies=energies,
            distances=distances,
            least_e_bfmi=None if fractions is None else float(fractions.min()),
            drift=drift,
            training=told.training,
        )
    )
    acceptance = chain.metrics.get("acceptance_rate")
    return Diagnosis(
        verdict,
        reason,
        **told._asdict(),
        **spreads._asdict(),
        worst_number=_place(hats, still) if moving else None,
        still_numbers=int(still.sum()),
        mean_energy=float(energies.double().mean()),
        mean_energy_error=float(mean_error(energies)),
        acceptance_rate=None if acceptance is None else float(acceptance),
        seconds=seconds,
        ess_per_second=spreads.ess_bulk.worst / seconds if moving else 0.0,
        e_bfmi=None if fractions is None else tuple(fractions.tolist()),
        drift=drift,
        trajectory=x,
        energies=energies,
        hamiltonians=hamiltonians,
    )


def _spread(
    values: Tensor, still: Tensor, energy: Tensor, *, worst: Callable[[list[float]], float]
) -> Spread:
    """Of the numbers that are not the same everywhere; NaN where there is none."""
    moving = values[~still].tolist() or [math.nan]
    return Spread(worst(moving), statistics.median(moving), float(energy))


def _place(hats: Tensor, still: Tensor) -> tuple[int, ...]:
    worst = int(torch.where(still, -torch.inf, hats).argmax())
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), hats.shape))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
