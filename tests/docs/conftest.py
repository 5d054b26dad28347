"""The documentation's pages, and the fenced blocks in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
AT_THE_ROOT = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PATHS = [*(ROOT / name for name in AT_THE_ROOT), *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- ((?:not run|run by)\b[^\n]*) -->\n\n?)?"
    r"(?:^`([\w./-]+)`\n\n)?"
    r"^(`{3,})(\{?\w[\w-]*\}?)[^\n]*\n(.*?)^\3$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One fenced block; ``name`` is the file that it is the text of, if it is one, and ``mark`` says
    why it is not run by the tests of the pages, or which test runs it."""

    mark: str | None
    name: str | None
    language: str
    text: str
    line: int


class Page(NamedTuple):
    path: Path
    text: str

    def blocks(self, language: str) -> list[Block]:
        """The blocks in a language, in their order."""
        return [block for block in self.all_blocks() if block.language == language]

    def all_blocks(self) -> list[Block]:
        """Every block, in their order."""
        return [
            Block(m[1], m[2], m[4], m[5], self.text.count("\n", 0, m.start(5)) + 1)
            for m in _BLOCK.finditer(self.text)
        ]

    def examples(self) -> list[Block]:
        """The Python blocks that the page's tests run."""
        return [b for b in self.blocks("python") if not b.name and not b.mark]

    def commands(self) -> list[str]:
        """The lines of ebmkit that the page's tests run."""
        lines = [x for b in self.blocks("sh") if not b.mark for x in b.text.splitlines()]
        return [line for line in lines if line.startswith("ebmkit ")]


def read(path: Path) -> Page:
    return Page(path, path.read_text(encoding="utf-8"))


WITH_EXAMPLES = [p for p in PATHS if read(p).examples()]
WITH_COMMANDS = [p for p in PATHS if read(p).commands()]


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
