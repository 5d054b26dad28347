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


def test_house_is_drawn_from_the_imports(root: Path) -> None:
    written = (root / "docs" / "house.svg").read_text(encoding="utf-8")
    rendered = runpy.run_path(str(root / "docs" / "make_house.py"))["render"]()
    assert written == rendered, "run python docs/make_house.py and commit what it writes"


def test_house_leaves_out_only_arrows_that_follow(root: Path) -> None:
    house = runpy.run_path(str(root / "docs" / "make_house.py"))
    at_once, when_used = house["arrows"](house["rooms"]())
    down, up = house["drawn"](at_once, when_used)
    assert down | up <= at_once | when_used
    for start, end in sorted(at_once | when_used - up):
        assert end in house["reached"](start, down)
    with pytest.raises(ValueError, match="circle"):
        house["drawn"]({("a", "b"), ("b", "c"), ("c", "a")}, set())


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


@pytest.mark.parametrize("kind", ["loss", "sampler", "scheduler", "dataset", "model"])
def test_names_for_those_who_come_from_torchebm_are_parts(kind: str, root: Path) -> None:
    page = (root / "docs" / "coming-from" / "torchebm.md").read_text(encoding="utf-8")
    titles = {"loss": "Losses", "sampler": "Samplers", "scheduler": "Schedules"}
    title = titles | {"dataset": "Data sets", "model": "Models"}
    table = re.search(rf"^\*\*{title[kind]}\*\*\n\n(.*?)\n\n", page, re.MULTILINE | re.DOTALL)
    assert table
    told = re.findall(r"`([a-z][a-z-]*)`", " ".join(re.findall(r"\| .*? \| (.*?) \|", table[1])))
    known = {c.name for c in scan().components if c.kind == kind and same(c.distribution, HOME)}
    assert told and set(told) <= known
    if kind == "loss":
        assert set(told) == known


def test_blocks_for_those_who_come_from_torchebm_are_found(root: Path) -> None:
    """They are run where TorchEBM is installed, by benchmarks/peer_blocks.py; here they are read."""
    blocks = runpy.run_path(str(root / "benchmarks" / "peer_blocks.py"))["blocks"]()
    assert len(blocks) == 7
    assert len({version for version, _, _ in blocks}) == 1
    for _, line, text in blocks:
        compile(text, f"torchebm.md:{line}", "exec")
        assert text.startswith("# TorchEBM\n")
