"""All laws: importing this declares them."""

from ebmkit.testing import (  # noqa: F401
    balance,
    chains,
    common,
    compiled,
    configured,
    consistency,
    datasets,
    densities,
    derivatives,
    discrete,
    hooks,
    losses,
    losses_in_training,
    models,
    normalisers,
    samplers,
    schedulers,
    stationary,
)
