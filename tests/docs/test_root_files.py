"""The files at the root that hosts and tools read say what the package says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

FIELDS = {"abstract", "cff-version", "keywords", "license", "message", "title", "type", "version"}
"""Of the Citation File Format 1.2.0 those that are plain values or lists of them and used here."""
KINDS = {"added", "changed", "fixed", "removed"}


@pytest.fixture
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def citation(root: Path) -> dict[str, str | list[str]]:
    """CITATION.cff, of which only what it needs of YAML is read: plain values, and lists of them."""
    text = (root / "CITATION.cff").read_text(encoding="utf-8")
    entry = re.compile(r"^([a-z-]+):(?: (\S.*)\n|\n((?:  - \S.*\n)+))", re.MULTILINE)
    assert not entry.sub("", text).strip()
    found = entry.findall(text)
    assert len({name for name, _, _ in found}) == len(found)
    return {
        name: value or [line.removeprefix("  - ") for line in lines.splitlines()]
        for name, value, lines in found
    }


def test_citation_is_one_of_this_version(root: Path, project: dict[str, Any]) -> None:
    said = citation(root)
    # What the format requires, and what of it is free to leave out but wrong if it is misspelt.
    assert {"authors", "cff-version", "message", "title"} <= set(said) <= FIELDS | {"authors"}
    assert said["cff-version"] == "1.2.0" and said["type"] == "software"
    metadata = project["project"]
    assert said["version"] == metadata["version"]
    assert said["license"] == metadata["license"]
    assert said["authors"] == [f"name: {author['name']}" for author in metadata["authors"]]


def test_news_are_of_a_kind_that_there_is(root: Path, project: dict[str, Any]) -> None:
    settings = project["tool"]["towncrier"]
    assert {kind["directory"] for kind in settings["type"]} == KINDS
    assert settings["start_string"] in (root / settings["filename"]).read_text(encoding="utf-8")
    for path in (root / settings["directory"]).glob("*.md"):
        assert re.fullmatch(rf"(\+[a-z-]+|\d+)\.({'|'.join(KINDS)})\.md", path.name), path.name
        assert path.read_text(encoding="utf-8").strip()


def test_files_to_imitate_are_there(root: Path) -> None:
    table = re.search(
        r"## Files to imitate\n(.*?)\n## ",
        (root / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert table
    named = re.findall(r"^\|[^|]*\| `([^`]+)` \|", table[1], re.MULTILINE)
    assert len(named) >= 6
    for name in named:
        assert (root / name).is_file(), name


def test_readme_is_one_screen_with_a_small_picture(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    [picture] = re.findall(r"!\[[^\]]{40,}\]\(([^)]+)\)", text)
    assert (root / picture).stat().st_size < 150_000
