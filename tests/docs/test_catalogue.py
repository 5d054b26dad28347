"""The catalogue of built-in parts says what the sources say."""

from __future__ import annotations

import runpy
from pathlib import Path

from ebmkit.registry import HOME, same, scan


def test_parts_page_is_up_to_date(root: Path) -> None:
    written = (root / "docs" / "parts.md").read_text(encoding="utf-8")
    rendered = runpy.run_path(str(root / "docs" / "make_parts.py"))["render"]()
    assert written == rendered, "run python docs/make_parts.py and commit what it writes"


def test_every_built_in_part_is_in_it(root: Path) -> None:
    written = (root / "docs" / "parts.md").read_text(encoding="utf-8")
    for component in scan().components:
        if same(component.distribution, HOME):
            assert f"`{component.name}`" in written, component.qualified
