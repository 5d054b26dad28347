"""Pages that are written from the sources say what the sources say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from ebmkit.registry import HOME, same, scan


@pytest.mark.parametrize("name", ["parts", "laws", "protocols", "errors", "api"])
def test_page_is_up_to_date(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(root / "docs")
    written = (root / "docs" / f"{name}.md").read_text(encoding="utf-8")
    rendered = runpy.run_path(str(root / "docs" / f"make_{name}.py"))["render"]()
    assert written == rendered, f"run python docs/make_{name}.py and commit what it writes"


def test_every_claim_is_read_by_the_kit(root: Path) -> None:
    claims = runpy.run_path(str(root / "docs" / "make_laws.py"))["CLAIMS"]
    kit = "".join(
        p.read_text(encoding="utf-8") for p in (root / "ebmkit" / "testing").rglob("*.py")
    )
    for attributes, _, _ in claims:
        for name in re.findall(r"`(\w+)`", attributes):
            assert f'"{name}"' in kit or f".{name}" in kit, name


def test_every_built_in_part_is_in_it(root: Path) -> None:
    written = (root / "docs" / "parts.md").read_text(encoding="utf-8")
    for component in scan().components:
        if same(component.distribution, HOME):
            assert f"`{component.name}`" in written, component.qualified
