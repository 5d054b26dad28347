"""All built-in parts keep all laws of their kinds, and each law is asked of at least one of them."""

from __future__ import annotations

import pytest

from ebmkit.registry import HOME, Component, registry, same
from ebmkit.testing.laws import ALL
from ebmkit.testing.reports import laws_of, report
from ebmkit.testing.subject import Subject, subjects

BUILT_IN = list(
    {
        (c.kind, c.target): c
        for c in registry().components
        if c.kind in ALL and same(c.distribution, HOME)
    }.values()
)


def made_of(component: Component) -> list[Subject]:
    return subjects(component.kind, registry().load(component))


@pytest.mark.parametrize("component", BUILT_IN, ids=lambda c: f"{c.kind}-{c.name}")
def test_built_in_keeps_all_laws(component: Component) -> None:
    for subject in made_of(component):
        found = report(subject)
        assert found.good, "\n".join(found.lines())


@pytest.mark.parametrize("kind", ALL)
def test_every_law_is_asked_of_some_built_in(kind: str) -> None:
    found = [s for c in BUILT_IN if c.kind == kind for s in made_of(c)]
    unasked = [law.name for law in laws_of(kind) if all(law.applies(s) for s in found)]
    assert not unasked
