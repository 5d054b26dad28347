"""The documentation's pages, and the fenced blocks in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PATHS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"(?:^`([\w./-]+)`\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block; ``name`` is the file that it is the text of, if it is one."""

    name: str | None
    language: str
    text: str
    line: int


class Page(NamedTuple):
    path: Path
    text: str

    def blocks(self, language: str) -> list[Block]:
        """The blocks in a language, in their order."""
        found = [
            Block(m[1], m[2], m[3], self.text.count("\n", 0, m.start(3)) + 1)
            for m in _BLOCK.finditer(self.text)
        ]
        return [block for block in found if block.language == language]


def read(path: Path) -> Page:
    return Page(path, path.read_text(encoding="utf-8"))


WITH_EXAMPLES = [p for p in PATHS if any(not b.name for b in read(p).blocks("python"))]
WITH_COMMANDS = [p for p in PATHS if read(p).blocks("sh")]


@pytest.fixture(params=PATHS, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> Page:
    """Each page in turn."""
    return read(request.param)


@pytest.fixture(params=WITH_EXAMPLES, ids=lambda path: path.name)
def page_with_examples(request: pytest.FixtureRequest) -> Page:
    """Each page with Python examples in turn."""
    return read(request.param)


@pytest.fixture(params=WITH_COMMANDS, ids=lambda path: path.name)
def page_with_commands(request: pytest.FixtureRequest) -> Page:
    """Each page with shell commands in turn."""
    return read(request.param)


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def pages() -> dict[str, Page]:
    """All pages, by file name."""
    return {path.name: read(path) for path in PATHS}
