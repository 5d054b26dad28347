"""What a training step diverges by, beside its chains and its loss."""

from __future__ import annotations

from torch import Tensor

from ebmkit.errors import DivergenceError
from ebmkit.protocols import Metrics


def check_gap(metrics: Metrics, limit: float, step: int) -> None:
    """Expect an energy gap, where there is one, of at most so many nats.

    Raises:
        DivergenceError: it is larger.
    """
    gap = metrics.get("energy_gap")
    if gap is not None and abs(float(gap)) > limit:
        raise DivergenceError(
            f"the energy gap is {float(gap):.3g} nats at step {step}, beyond "
            f"training.energy_gap_limit = {limit:g}; a smaller learning rate, or more "
            "regularisation of the energy, keeps it small",
            step=step,
        )


def endless_gradient(norm: Tensor, step: int) -> DivergenceError:
    """The error of a gradient whose norm is not finite."""
    return DivergenceError(
        f"the gradient's norm is {norm.item()} at step {step}; a smaller learning rate, or more "
        "regularisation of the energy, keeps it finite",
        step=step,
    )
