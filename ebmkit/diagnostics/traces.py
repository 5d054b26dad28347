"""What chains' traces say of themselves: R̂, effective sample sizes, Monte Carlo errors.

A trace x is (draws, chains, *event), as ``run_chain(..., trajectory=True)`` leaves it, and every number
of an event is judged by itself: results are (*event), in float64, computed in pieces of bounded memory.
A number that is not finite somewhere gets NaN. Written n draws and m chains; "split" means that the
first and the last ⌊n/2⌋ draws of a chain count as two chains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from ebmkit.diagnostics.ranks import median, normal_scores, quantiles

Kind = Literal["bulk", "tail", "mean"]

FEWEST_DRAWS = 4
_PIECE_BYTES = 2**25
_CONSTANT = 1e-15
_TAILS = (0.05, 0.95)


def r_hat(x: Tensor) -> Tensor:
    """Rank-normalised split R̂ of traces x (draws, chains, *event), (*event): 1 where all halves of all
    chains are of one distribution, to be below 1.01.

    R̂ = √((B / W + n − 1) / n), with n draws a split chain, B n times the variance of the split chains'
    means and W the mean of their variances, taken of z = Φ⁻¹((rank − 3/8) / (S + 1/4)) over all S
    values, ties having their mean rank; the larger of that of x and that of |x − median|.

    NaN for a single chain and for a number that is the same everywhere, as ArviZ has it; infinite
    where every chain stands still and they differ.

    Raises:
        ValueError: x has fewer than two dimensions or fewer than four draws.

    Source: Rank-Normalization, Folding, and Localization: An Improved R̂ for Assessing Convergence of
    MCMC (Vehtari and others, 2021).
    """
    if _checked(x).shape[1] < 2:
        return x.new_full(x.shape[2:], torch.nan, dtype=torch.float64, device=_device(x))
    return _by_pieces(x, _r_hat)


def effective_sample_size(x: Tensor, kind: Kind = "bulk") -> Tensor:
    """Effective sample size (ESS) of traces x (draws, chains, *event), (*event): how many independent
    draws would tell as much; to be above 400 in all.

    S / τ̂ over all S values of the split chains, with τ̂ = −1 + 2 Σ_k P_k, P_k = ρ_2k + ρ_2k+1 summed
    while it is positive and made monotone, ρ_t = 1 − (W − c_t) / V the autocorrelation at lag t of all
    chains together, c_t their mean autocovariance, W the mean of their variances and
    V = W (n − 1) / n + B / n; τ̂ is at least 1 / log₁₀ S. "bulk" is of the rank-normalised values,
    "tail" the smaller one of the indicators x ≤ q at the 5 % and the 95 % quantile q, "mean" of the
    values themselves.

    S for a number that is the same everywhere, as ArviZ has it.

    Raises:
        ValueError: x has fewer than two dimensions or fewer than four draws, or there is no such kind.

    Source: Rank-Normalization, Folding, and Localization: An Improved R̂ for Assessing Convergence of
    MCMC (Vehtari and others, 2021); the sum's end: Practical Markov Chain Monte Carlo (Geyer, 1992).
    """
    if kind not in ("bulk", "tail", "mean"):
        raise ValueError(f'expected kind "bulk", "tail" or "mean", got {kind!r}')
    _checked(x)
    return _by_pieces(x, {"bulk": _bulk, "tail": _tail, "mean": _of_mean}[kind])


def mean_error(x: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean over all draws and chains of x (draws, chains, *event),
    (*event): the values' standard deviation over √ESS, the ESS being that of kind "mean".

    Raises:
        ValueError: x has fewer than two dimensions or fewer than four draws.

    Source: Markov Chain Monte Carlo: Can We Trust the Third Significant Figure? (Flegal, Haran and
    Jones, 2008).
    """
    _checked(x)
    return _by_pieces(x, lambda v: v.flatten(1).std(1) / _of_mean(v).sqrt())


def autocorrelation(x: Tensor, lags: int | None = None) -> Tensor:
    """Each chain's autocorrelation, (lags, chains, *event), of traces x (draws, chains, *event).

    ρ_t = c_t / c_0 with c_t = Σ_i (x_i − x̄)(x_{i+t} − x̄) / n; ``lags`` counts from lag 0, by default
    as many as there are draws. NaN for a chain that stands still.

    Raises:
        ValueError: x has fewer than two dimensions, or ``lags`` is not between 1 and the draws.
    """
    _checked(x, fewest=1)
    lags = len(x) if lags is None else lags
    if not 1 <= lags <= len(x):
        raise ValueError(f"expected lags from 1 to the {len(x)} draws, got {lags}")

    def correlations(values: Tensor) -> Tensor:
        covariance = _autocovariance(values)[..., :lags]
        return (covariance / covariance[..., :1]).permute(2, 1, 0)

    return torch.cat([correlations(v) for v in _pieces(x)], -1).reshape(lags, *x.shape[1:])


def e_bfmi(hamiltonians: Tensor) -> Tensor:
    """Energy Bayesian fraction of missing information (E-BFMI) of each chain, (chains,), from the
    Hamiltonians (draws, chains) of successive steps.

    Σ_n (H_n − H_{n−1})² / Σ_n (H_n − H̄)²: how far a step's new momentum takes the chain across the
    energies that there are. About 1 where momenta explore them well; below 0.3 energies of the tails
    are hardly reached. NaN where the Hamiltonian never changes.

    Raises:
        ValueError: the trace is not (draws, chains) with two draws at least.

    Source: Diagnosing Suboptimal Cotangent Disintegrations in Hamiltonian Monte Carlo (Betancourt,
    2016).
    """
    if hamiltonians.ndim != 2 or len(hamiltonians) < 2:
        raise ValueError(
            "expected Hamiltonians (draws, chains) of two draws at least, got "
            f"{tuple(hamiltonians.shape)}"
        )
    h = hamiltonians.detach().to(_device(hamiltonians), torch.float64)
    return h.diff(dim=0).square().sum(0) / (h - h.mean(0)).square().sum(0)


def _r_hat(values: Tensor) -> Tensor:
    halves = _split(values)
    folded = (halves - median(halves)).abs()
    # Where folding leaves nothing that varies, as with two values of one frequency, ranks decide alone.
    return torch.fmax(_plain_r_hat(normal_scores(halves)), _plain_r_hat(normal_scores(folded)))


def _plain_r_hat(values: Tensor) -> Tensor:
    n = values.shape[-1]
    between = n * values.mean(-1).var(-1)
    within = values.var(-1).mean(-1)
    return ((between / within + n - 1) / n).sqrt()


def _bulk(values: Tensor) -> Tensor:
    return _plain_ess(normal_scores(_split(values)))


def _tail(values: Tensor) -> Tensor:
    low, high = (
        _plain_ess(_split((values <= q).to(values.dtype))) for q in quantiles(values, _TAILS)
    )
    return torch.minimum(low, high)


def _of_mean(values: Tensor) -> Tensor:
    return _plain_ess(_split(values))


def _plain_ess(values: Tensor) -> Tensor:
    """(numbers,) of traces (numbers, chains, n), which are split already."""
    numbers, chains, n = values.shape
    size = chains * n
    covariance = _autocovariance(values).mean(1)
    within = covariance[:, :1] * n / (n - 1)
    total = covariance[:, :1]
    if chains > 1:
        total = total + values.mean(-1).var(-1, keepdim=True)
    rho = 1 - (within - covariance) / total
    rho[:, 0] = 1
    # Pairs of lags (2k, 2k + 1), k = 0 … last; beyond that too few products make up a covariance.
    last = max((n - 3) // 2, 0)
    pairs = rho[:, : 2 * last + 2].reshape(numbers, last + 1, 2).sum(2)
    # How many pairs are summed: those before the first that is not positive, and not the last one.
    used = (pairs > 0).long().cumprod(1).sum(1).clamp(max=last)
    monotone = pairs.cummin(1).values
    summed = torch.where(torch.arange(last + 1, device=rho.device) < used[:, None], monotone, 0)
    # Of the pair after those the even lag counts once, unless it is negative in a pair that is so.
    place = used[:, None]
    even, pair = rho.gather(1, 2 * place)[:, 0], pairs.gather(1, place)[:, 0]
    even = torch.where(pair >= 0, even, even.clamp(min=0))
    # At the shortest the sum is empty and `even` is lag 0.
    tau = (-1 + 2 * summed.sum(1) + even).clamp(min=1 / math.log10(size))
    flat = values.flatten(1)
    constant = flat.amax(1) - flat.amin(1) < _CONSTANT
    return torch.where(constant, float(size), size / tau)


def _autocovariance(values: Tensor) -> Tensor:
    """c_t for t = 0 … n − 1 along the last dimension."""
    n = values.shape[-1]
    centred = values - values.mean(-1, keepdim=True)
    # A mean's rounding is no movement.
    still = values.amax(-1, keepdim=True) == values.amin(-1, keepdim=True)
    centred = torch.where(still, 0, centred)
    # Padded, so that no lag wraps around, to a length that transforms fast.
    length = 2 ** (2 * n - 1).bit_length()
    spectrum = torch.fft.rfft(centred, n=length)
    power = spectrum.real.square() + spectrum.imag.square()
    covariance: Tensor = torch.fft.irfft(power, n=length)[..., :n]
    return covariance / n


def _split(values: Tensor) -> Tensor:
    """(numbers, 2 chains, ⌊n/2⌋); the middle one of an odd number of draws is left out."""
    half = values.shape[-1] // 2
    return torch.cat([values[..., :half], values[..., -half:]], 1)


def _checked(x: Tensor, fewest: int = FEWEST_DRAWS) -> Tensor:
    if x.ndim < 2 or len(x) < fewest or not x.numel():
        raise ValueError(
            f"expected traces (draws, chains, *event) of {fewest} draws at least, got "
            f"{tuple(x.shape)}"
        )
    return x


def _by_pieces(x: Tensor, judge: Callable[[Tensor], Tensor]) -> Tensor:
    """(*event) from a function (numbers, chains, draws) -> (numbers,)."""
    results = []
    for values in _pieces(x):
        finite = values.isfinite().flatten(1).all(1)
        judged = judge(torch.where(finite[:, None, None], values, 0))
        results.append(torch.where(finite, judged, torch.nan))
    return torch.cat(results).reshape(x.shape[2:])


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """Some numbers of the event at a time, (numbers, chains, draws)."""
    draws, chains = x.shape[:2]
    columns = x.detach().reshape(draws, chains, -1)
    size = max(_PIECE_BYTES // (8 * draws * chains), 1)
    for piece in torch.split(columns, size, -1):
        yield piece.to(_device(x), torch.float64).permute(2, 1, 0)


def _device(x: Tensor) -> torch.device:
    # Apple's devices have no float64.
    return torch.device("cpu") if x.device.type == "mps" else x.device
