"""All laws: importing this declares them."""

from ebmkit.testing import common, configured, hooks, schedulers  # noqa: F401
from ebmkit.testing.datasets import densities, draws  # noqa: F401
from ebmkit.testing.losses import consistency, sharing, training, values  # noqa: F401
from ebmkit.testing.models import derivatives, normalisers, rows  # noqa: F401
from ebmkit.testing.samplers import (  # noqa: F401
    balance,
    chains,
    compiled,
    discrete,
    stationary,
    steps,
)
