"""All laws: importing this declares them."""

from ebmkit.testing import (
    common,  # noqa: F401
    configured,  # noqa: F401
    stationary,  # noqa: F401
)
