"""Numbers between two samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmkit.errors import EvaluationError

_MEDIAN_OF = 2000
_ROWS = 1000


def auroc(high: Tensor, low: Tensor) -> float:
    """The probability that a value of ``high`` (n,) exceeds one of ``low`` (m,), ties counting half.

    0.5 where the two cannot be told apart by their values, 1 where every one of ``high`` is larger.
    """
    ordered = low.double().sort().values
    values = high.double()
    below = torch.searchsorted(ordered, values, right=False)
    upto = torch.searchsorted(ordered, values, right=True)
    return float((below + upto).double().mean() / (2 * len(low)))


def mmd2(one: Tensor, other: Tensor) -> tuple[float, str]:
    """The unbiased estimate of the squared maximum mean discrepancy between two samples
    (n, *event) and (m, *event), and the kernel in words.

    MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y) with k(a, b) = exp(−‖a − b‖² / (2 h²)), h the median
    distance within the first sample (of its first 2,000 points). It is zero in the mean where both
    are of one distribution, and may then be slightly negative.

    Raises:
        EvaluationError: a sample has fewer than two points, or the median distance is 0.

    Source: A Kernel Two-Sample Test (Gretton and others, 2012).
    """
    x, y = one.flatten(1).double(), other.flatten(1).double()
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise EvaluationError(f"two points of each are needed, got {n} and {m}")
    width = float(torch.pdist(x[:_MEDIAN_OF]).median())
    if not 0 < width < math.inf:
        raise EvaluationError(
            f"the median distance within the data is {width}, and no kernel has that width"
        )

    def kernel_sum(a: Tensor, b: Tensor) -> float:
        # In rows, so that memory stays linear in the number of points.
        rows = torch.split(a, _ROWS)
        return sum(float(torch.exp(-(torch.cdist(r, b) ** 2) / (2 * width**2)).sum()) for r in rows)

    within = (kernel_sum(x, x) - n) / (n * (n - 1)) + (kernel_sum(y, y) - m) / (m * (m - 1))
    value = within - 2 * kernel_sum(x, y) / (n * m)
    return value, f"gaussian, h = {width:.4g} (median distance within the data)"
