"""Sites on a lattice, open or periodic, of as many dimensions as one likes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ebmkit import EvaluationError

MOST_STATES = 2**20
"""States of a lattice's row up to which an open lattice is summed exactly."""
MOST_RING_STATES = 2**12
"""The same of a periodic lattice, where each is a start of its own."""
_NUMBERS_AT_ONCE = 2**20
_JOINED = 64
"""States of neighbouring sites that are moved to the next row by one product."""
_VANISHED = 1e-280


def check_sides(sides: Sequence[int], periodic: bool, owner: str) -> None:
    """Raise ValueError where two sites of a ring would be neighbours twice."""
    if periodic and 2 in sides:
        raise ValueError(
            f"{owner}: expected sides of 1 or at least 3 sites on a periodic lattice, got "
            f"{tuple(sides)}; set periodic = false"
        )


def neighbours(x: Tensor, axes: int, periodic: bool) -> Tensor:
    """For each site the sum of x over its neighbours along the ``axes`` dimensions after the
    first; a side of one site has no bonds."""
    total = torch.zeros_like(x)
    for axis in range(1, axes + 1):
        size = x.shape[axis]
        if size == 1:
            continue
        if periodic:
            total = total + x.roll(1, axis) + x.roll(-1, axis)
        else:
            edge = torch.zeros_like(x.narrow(axis, 0, 1))
            before = torch.cat([edge, x.narrow(axis, 0, size - 1)], axis)
            after = torch.cat([x.narrow(axis, 1, size - 1), edge], axis)
            total = total + before + after
    return total


def colours(sides: Sequence[int], periodic: bool) -> Tensor:
    """Colours 0, 1, … of the sites (*sides), such that no two neighbours share one: two colours, or
    three where a ring of an odd number of sites leaves no other way."""
    odd = [periodic and side % 2 == 1 and side > 1 for side in sides]
    total = torch.zeros(tuple(sides), dtype=torch.long)
    for axis, side in enumerate(sides):
        along = torch.arange(side) % 2
        if odd[axis]:
            along[-1] = 2
        total = total + along.view(-1, *[1] * (len(sides) - axis - 1))
    return total % (3 if any(odd) else 2)


def log_partition(sides: Sequence[int], periodic: bool, bond: Tensor, site: Tensor) -> Tensor:
    """log Σ exp(Σ_bonds bond[s, s'] + Σ_sites site[s]) over all states of the lattice, in float64,
    by a transfer matrix along its longest side; bond (q, q) is symmetric, site (q,).

    Raises:
        EvaluationError: the lattice's rows across have too many states, or its couplings are so
            strong that the sum cannot be told in double precision.
    """
    *row, length = sorted(side for side in sides if side > 1) or [1]
    bond, site = bond.detach().double(), site.detach().double()
    q, width = len(site), math.prod(row)
    ring = periodic and length > 1
    if width * math.log(q) > math.log(bound := MOST_RING_STATES if ring else MOST_STATES) + 1e-9:
        raise EvaluationError(
            f"log_partition: expected rows of at most {bound:,} states across the longest side, got "
            f"{q}^{width} on a lattice of sides {tuple(sides)}; estimate it by annealed importance "
            "sampling"
        )
    within = _row(row, periodic, bond, site)
    shift, peak = bond.max(), within.max()
    weights, factor = (within - peak).exp(), (bond - shift).exp()
    # Every row is divided by its largest term, and so is every step by the largest factor.
    constant = length * peak + (length if ring else length - 1) * width * shift
    if not ring:
        sums, scale = _moved(weights[None], length - 1, weights, factor)
        return sums.sum().log() + scale + constant
    states, logs = len(weights), []
    starts = torch.eye(states, dtype=torch.float64, device=bond.device)
    at_once = max(_NUMBERS_AT_ONCE // states, 1)
    for low in range(0, states, at_once):
        first = torch.arange(low, min(low + at_once, states), device=bond.device)
        ends, scale = _moved(starts[first], length, weights, factor)
        total = ends.gather(1, first[:, None]).sum()
        if float(total) < _VANISHED:
            raise EvaluationError(
                "log_partition: the couplings are so strong that the sum over states vanishes in "
                "double precision; weaken them, or take an open lattice"
            )
        logs.append(total.log() + scale)
    return torch.stack(logs).logsumexp(0) + constant


def _row(row: Sequence[int], periodic: bool, bond: Tensor, site: Tensor) -> Tensor:
    """Exponents of all states (q^width,) of a row across, the last site's state changing fastest."""
    q, width = len(site), math.prod(row)
    total = site.new_zeros(q**width)
    for place in range(width):
        total = (total.view(q**place, q, -1) + site[:, None]).flatten()
    places = torch.arange(width).view(tuple(row))
    for axis, side in enumerate(row):
        following = places.roll(-1, axis)
        last = side if periodic else side - 1
        pairs = zip(
            places.narrow(axis, 0, last).flatten().tolist(),
            following.narrow(axis, 0, last).flatten().tolist(),
            strict=True,
        )
        for low, high in map(sorted, pairs):
            view = total.view(q**low, q, q ** (high - low - 1), q, -1)
            total = (view + bond[:, None, :, None]).flatten()
    return total


def _moved(starts: Tensor, times: int, weights: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (n, states) after so many rows more, and the logarithm by which they are too small."""
    q, states = len(factor), len(weights)
    width = round(math.log(states, q)) if states > 1 else 0
    joined = max(int(math.log(_JOINED, q) + 1e-9), 1)
    full, rest = divmod(width, joined)
    products = [_power(factor, sites) for sites in [joined] * full + [rest] * (rest > 0)]
    sums, scale = starts, starts.new_zeros(())
    for _ in range(times):
        left = len(starts)
        for matrix in products:
            sums = matrix @ sums.reshape(left, len(matrix), -1)
            left *= len(matrix)
        sums = sums.reshape(len(starts), states) * weights
        largest = sums.max()
        sums, scale = sums / largest, scale + largest.log()
    return sums, scale


def _power(factor: Tensor, sites: int) -> Tensor:
    """The Kronecker product of a matrix with itself, for so many sites."""
    product = factor
    for _ in range(sites - 1):
        product = torch.kron(product, factor)
    return product
