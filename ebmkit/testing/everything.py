"""All laws: importing this declares them."""

from ebmkit.testing import stationary  # noqa: F401
