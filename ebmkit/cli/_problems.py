"""What the statuses of parts mean for who wants to use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ebmkit.registry import Component, registry


def problems(components: Iterable[Component]) -> Iterator[str]:
    """A line for each that cannot be used by its bare name, and that nobody has switched off."""
    for component in components:
        if component.status == "broken":
            failed = component.reason.startswith(component.whose)  # in this process
            told = component.reason
            yield told if failed else component.broken(f"leads nowhere: {told}")
        elif component.status == "incompatible":
            yield f"{component.whose} cannot be used: {component.reason}"
        elif component.status == "conflict":
            yield registry().clash(component.kind, component.name)
