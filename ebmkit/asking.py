"""What parts say of each other when they are asked, before the first step."""

from __future__ import annotations

from typing import Any

from ebmkit.errors import EbmkitError, PluginError, UserError, at_field
from ebmkit.parameters import parameters_of
from ebmkit.plan import Planner


def ask(planner: Planner, place: str, part: Any, method: str, *given: Any) -> None:
    """Calls a part's method for what it refuses, which is reported at its place.

    Raises:
        PluginError: the method fails otherwise.
    """
    kind = type(part)
    try:
        getattr(part, method)(*given)
    except UserError as error:
        planner.report(*at_field(place, str(error), parameters_of(kind)))
    except EbmkitError:
        raise
    except Exception as error:
        raise PluginError(
            f"{place}: {method} of {kind.__name__} (module {kind.__module__}) raised "
            f"{type(error).__name__}: {error}; mend or update the plugin"
        ) from error
