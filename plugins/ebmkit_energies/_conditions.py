"""What an energy is given beside the points: labels and noise levels, checked."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebmkit import tracing


def n_labels(conditional: bool, n_classes: int | None) -> int:
    """How many labels there are, 0 where the energy depends on none.

    Raises:
        ValueError: their number is asked for and not known.
    """
    if not conditional:
        return 0
    if n_classes is None:
        raise ValueError(
            "conditional: needs n_classes, the number of labels; choose labelled data, state "
            "n_classes, or conditional = false"
        )
    return n_classes


def labels_of(condition: Tensor | None, n_labels: int, batch: int, owner: object) -> Tensor | None:
    """Labels (batch,) as whole numbers; None where there are none to give.

    Raises:
        ValueError: labels missing, of a wrong shape, dtype or value, or unasked for.
    """
    name = type(owner).__name__
    if not n_labels:
        if condition is not None:
            raise ValueError(
                f"{name}: got a condition and is not conditional; set conditional = true"
            )
        return None
    wanted = f"{name}: expected labels of shape ({batch},) in 0 … {n_labels - 1}"
    if condition is None:
        raise ValueError(f"{wanted} as condition, for it is conditional; got none")
    whole_numbers = not (
        condition.is_floating_point() or condition.is_complex() or condition.dtype == torch.bool
    )
    if condition.shape != (batch,) or not whole_numbers:
        raise ValueError(f"{wanted}, got shape {tuple(condition.shape)} of {condition.dtype}")
    if batch and not tracing():
        low, high = (int(end) for end in condition.aminmax())
        if low < 0 or high >= n_labels:
            raise ValueError(f"{wanted}, got labels from {low} to {high}")
    return condition.long()


def levels_of(
    noise_level: Tensor | float | None, lowest: float, x: Tensor, owner: object
) -> Tensor:
    """Standard deviations σ (batch,) of the noise on x, in its dtype; the lowest where none is said.

    Raises:
        ValueError: not one positive finite number, or one a row.
    """
    wanted = f"{type(owner).__name__}: expected noise_level > 0, a number or of shape ({len(x)},)"
    if noise_level is None:
        return x.new_full((len(x),), lowest)
    if not isinstance(noise_level, Tensor):
        if isinstance(noise_level, bool) or not torch.finfo(x.dtype).tiny <= noise_level < math.inf:
            raise ValueError(f"{wanted}, got {noise_level!r}")
        return x.new_full((len(x),), noise_level)
    if noise_level.shape not in ((), x.shape[:1]) or not noise_level.is_floating_point():
        got = f"shape {tuple(noise_level.shape)} of {noise_level.dtype}"
        raise ValueError(f"{wanted}, of a floating dtype, got {got}")
    sigma = noise_level.to(x.dtype)
    if not tracing():
        # As x's dtype has it: what is positive in another may be 0 here.
        wrong = ~((sigma >= torch.finfo(x.dtype).tiny) & sigma.isfinite())
        if bool(wrong.any()):
            raise ValueError(f"{wanted}, got {noise_level[wrong].flatten()[0].item()}")
    return sigma.expand(len(x))


N_NOISE_FEATURES = 3


def noise_features(sigma: Tensor, data_scale: float) -> Tensor:
    """(t / 4, sin t, cos t) of t = log(σ / s), (batch, 3)."""
    t = (sigma / data_scale).log()
    return torch.stack([t / 4, t.sin(), t.cos()], 1)
