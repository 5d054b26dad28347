"""Numbers between two samples."""

from __future__ import annotations

import torch
from torch import Tensor


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
    distance within the first sample. It is zero in the mean where both are of one distribution,
    and may then be slightly negative.

    Source: A Kernel Two-Sample Test (Gretton and others, 2012).
    """
    x, y = one.flatten(1).double(), other.flatten(1).double()
    n, m = len(x), len(y)
    xx, yy, xy = (torch.cdist(a, b) for a, b in ((x, x), (y, y), (x, y)))
    above = torch.triu_indices(n, n, 1, device=x.device)
    width = xx[above[0], above[1]].median()
    k_xx, k_yy, k_xy = (torch.exp(-d.square() / (2 * width**2)) for d in (xx, yy, xy))
    within = (k_xx.sum() - n) / (n * (n - 1)) + (k_yy.sum() - m) / (m * (m - 1))
    value = float(within - 2 * k_xy.mean())
    return value, f"gaussian, h = {float(width):.4g} (median distance within the data)"
