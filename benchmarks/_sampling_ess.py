"""Effective samples a second of MALA, HMC and NUTS: ebmkit against blackjax.

Both take the same step sizes, numbers of leapfrog steps and chains, without adaptation, and start
from the same exact draws of the target, so that nothing has to be burnt in. Every step is kept. The
effective sample size is judged by one estimator for both, in its worst dimension.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from _sampling_harness import Numbers, Spec
from _sampling_worker import Arm

CHAINS = 64
DOUBLINGS = 8
"""Most doublings of a NUTS trajectory."""
CURVATURE, SPREAD = 0.5, 2.0
"""Of the banana, E(x) = x₁² / (2 s²) + ½ (x₂ − b (x₁² − s²))²."""


class Work(NamedTuple):
    """A target, a sampler, and how far it goes."""

    target: str
    sampler: str
    step_size: float
    leapfrogs: int
    """Of HMC."""
    steps: int

    def __str__(self) -> str:
        leaps = f", {self.leapfrogs} leapfrogs" if self.sampler == "hmc" else ""
        return f"{self.target}, {self.sampler}, ε = {self.step_size:g}{leaps}, {self.steps} steps"


WORKS = [
    Work("gaussian", "mala", 0.008, 0, 2000),
    Work("gaussian", "hmc", 0.07, 16, 500),
    Work("gaussian", "nuts", 0.1, 0, 100),
    Work("banana", "mala", 0.2, 0, 4000),
    Work("banana", "hmc", 0.3, 10, 1000),
    Work("banana", "nuts", 0.3, 0, 400),
]
OURS, PEER = "ebmkit", "blackjax"


def specs(work: Work) -> dict[str, Spec]:
    here, options = "_sampling_ess", work._asdict()
    return {
        OURS: Spec(f"{here}:ours", options),
        PEER: Spec(f"{here}:blackjax", options, torch=False),
    }


def arrays(work: Work, seed: int = 0) -> dict[str, Numbers]:
    """Exact draws of the target to start from and, of the Gaussian, the covariance."""
    numbers = np.random.default_rng(seed)
    if work.target == "gaussian":
        # Turned at random, so that no direction of its own lies along an axis.
        turn, _ = np.linalg.qr(numbers.normal(size=(64, 64)))
        covariance = (turn * np.geomspace(0.01, 1, 64)) @ turn.T
        covariance = (covariance + covariance.T) / 2
        x = numbers.normal(size=(CHAINS, 64)) @ np.linalg.cholesky(covariance).T
        return {"covariance": covariance, "x": x.astype(np.float32)}
    first, second = numbers.normal(size=(2, CHAINS))
    first *= SPREAD
    x = np.stack([first, second + CURVATURE * (first**2 - SPREAD**2)], 1)
    return {"x": x.astype(np.float32)}


def energies(work: Work, stored: dict[str, Numbers], x: Numbers) -> Numbers:
    """E(x) (...) of points (..., d); of either target its mean is d / 2."""
    x = x.astype(np.float64)
    if work.target == "gaussian":
        found: Numbers = ((x @ np.linalg.inv(stored["covariance"])) * x).sum(-1) / 2
        return found
    bent = x[..., 1] - CURVATURE * (x[..., 0] ** 2 - SPREAD**2)
    return np.asarray((x[..., 0] / SPREAD) ** 2 / 2 + bent**2 / 2)


def _torch_target(target: str, stored: dict[str, Numbers]) -> Any:
    import ebmkit

    if target == "gaussian":
        covariance = stored["covariance"].tolist()
        return ebmkit.create("model", "gaussian", mean=[0.0] * 64, covariance=covariance)

    return ebmkit.create("model", "banana", scale=SPREAD, curvature=CURVATURE)


def ours(
    stored: dict[str, Numbers],
    *,
    target: str,
    sampler: str,
    step_size: float,
    leapfrogs: int,
    steps: int,
) -> Arm | None:
    import torch

    import ebmkit

    options: dict[str, Any] = {"step_size": step_size}
    if sampler == "hmc":
        options["n_leapfrog"] = leapfrogs
    if sampler == "nuts":
        options["max_depth"] = DOUBLINGS
    mover = ebmkit.create("sampler", sampler, **options)
    model, x = _torch_target(target, stored), torch.from_numpy(stored["x"])

    def run(seed: int) -> Any:  # the first runs, which are not timed, compile
        g = torch.Generator().manual_seed(seed)
        return ebmkit.sample(
            mover, model, x, steps=steps, generator=g, trajectory=True, compile="chunk"
        )

    return Arm(run, lambda points: points.numpy())


def blackjax(
    stored: dict[str, Numbers],
    *,
    target: str,
    sampler: str,
    step_size: float,
    leapfrogs: int,
    steps: int,
) -> Arm | None:
    if find_spec("blackjax") is None:
        return None
    import blackjax as library
    import jax
    import jax.numpy as jnp

    if target == "gaussian":
        precision = jnp.asarray(np.linalg.inv(stored["covariance"]), jnp.float32)

        def log_density(x: Any) -> Any:
            return -x @ precision @ x / 2
    else:

        def log_density(x: Any) -> Any:
            bent = x[1] - CURVATURE * (x[0] ** 2 - SPREAD**2)
            return -((x[0] / SPREAD) ** 2) / 2 - bent**2 / 2

    start = stored["x"]
    unit = jnp.ones(start.shape[1])
    kernel = {
        "mala": lambda: library.mala(log_density, step_size),
        "hmc": lambda: library.hmc(log_density, step_size, unit, leapfrogs),
        "nuts": lambda: library.nuts(log_density, step_size, unit, max_num_doublings=DOUBLINGS),
    }[sampler]()

    def step(state: Any, key: Any) -> Any:
        state, _ = jax.vmap(kernel.step)(jax.random.split(key, len(start)), state)
        return state, state.position

    @jax.jit
    def chains(key: Any, x: Any) -> Any:
        return jax.lax.scan(step, jax.vmap(kernel.init)(x), jax.random.split(key, steps))[1]

    return Arm(lambda seed: chains(jax.random.key(seed), start).block_until_ready(), np.asarray)


def bulk_ess(points: Numbers) -> Numbers:
    """Bulk effective sample size of each dimension (d,) of points (steps, chains, d).

    Of rank-normalised, split chains, by Geyer's initial monotone sequence of autocorrelations.

    Source: Rank-normalization, folding, and localization: an improved R̂ (Vehtari and others, 2021).
    """
    steps = len(points) // 2
    halves = np.concatenate([points[:steps], points[-steps:]], 1)
    return np.array([_ess(_normalised(halves[..., i])) for i in range(points.shape[-1])])


def _normalised(x: Numbers) -> Numbers:
    import torch

    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # equal points share their mean rank
    scores = torch.special.ndtri(torch.from_numpy((ranks - 0.375) / (x.size + 0.25))).numpy()
    found: Numbers = scores[inverse.reshape(x.shape)]
    return found


def _ess(x: Numbers) -> float:
    """Of one quantity (steps, chains)."""
    steps, chains = x.shape
    centred = x - x.mean(0)
    spectrum = np.fft.rfft(centred, 2 * steps, axis=0)
    covariances = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:steps].mean(1) / steps
    within = covariances[0] * steps / (steps - 1)
    variance = covariances[0] + x.mean(0).var(ddof=1)
    correlations = 1 - (within - covariances) / variance
    correlations[0] = 1
    pairs = correlations[: steps // 2 * 2].reshape(-1, 2).sum(1)
    end = int(np.argmax(pairs < 0)) if (pairs < 0).any() else len(pairs) - 1
    # The first lag beyond the pairs that count, where it is positive, makes antithetic chains' time
    # less noisy.
    last = max(float(correlations[2 * end]), 0.0)
    time = 2 * np.minimum.accumulate(pairs[:end]).sum() - 1 + last
    time = max(float(time), 1 / math.log10(steps * chains))
    return float(steps * chains / time)


def judge(work: Work, stored: dict[str, Numbers], points: Numbers, name: str) -> float:
    """The worst dimension's effective sample size, once the mean energy is what it should be."""
    found = energies(work, stored, points)
    size = bulk_ess(found[..., None])[0]
    off = (found.mean() - points.shape[-1] / 2) / (found.std() / math.sqrt(size))
    if not abs(off) <= 5:
        raise SystemExit(
            f"{name} on {work}: mean energy {found.mean():.4g}, expected {points.shape[-1] / 2:g}, "
            f"{abs(off):.1f} standard errors away: it does not sample the target"
        )
    return float(bulk_ess(points).min())
