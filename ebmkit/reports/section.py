"""What a report is made of; all of it is plain text and pictures, so that nothing of a run's files is
ever taken for markup."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import field
from attrs.validators import deep_iterable, in_, instance_of, optional

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = instance_of(str)
_TEXTS = deep_iterable(_TEXT)


def _tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


def _rows(rows: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(map(tuple, rows))


@attrs.frozen
class Picture:
    """A picture of a report."""

    title: str = field(validator=_TEXT)
    content: bytes = field(validator=instance_of(bytes), repr=False)
    kind: Literal["png", "svg"] = field(default="png", validator=in_(("png", "svg")))
    dark: bytes | None = field(default=None, validator=optional(instance_of(bytes)), repr=False)
    """The same for a dark page, of the same kind; without one the picture stands on white."""
    text: str = field(default="", validator=_TEXT)
    """What can be seen on it, in words for those who cannot see."""

    @property
    def url(self) -> str:
        return self._url(self.content)

    @property
    def dark_url(self) -> str | None:
        return None if self.dark is None else self._url(self.dark)

    def _url(self, content: bytes) -> str:
        media = {"png": "image/png", "svg": "image/svg+xml"}[self.kind]
        return f"data:{media};base64,{base64.b64encode(content).decode()}"


@attrs.frozen
class Section:
    """A section of a report, which a hook plugin's ``report_sections`` may add."""

    title: str = field(validator=_TEXT)
    text: str = field(default="", validator=_TEXT)
    """Paragraphs, with an empty line between them."""
    columns: Sequence[str] = field(default=(), converter=_tuple, validator=_TEXTS)
    """Names of the table's columns."""
    rows: Sequence[Sequence[str]] = field(
        default=(), converter=_rows, validator=deep_iterable(_TEXTS)
    )
    pictures: Sequence[Picture] = field(
        default=(), converter=_tuple, validator=deep_iterable(instance_of(Picture))
    )
    shows: Sequence[str] = field(default=(), converter=_tuple, validator=_TEXTS)
    """Pictures of the run's directory, as ``training.png``, that need not be shown beside it."""

    @rows.validator
    def _fits(self, _: Any, rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"rows: expected {len(self.columns)} cells, as many as columns, got {row!r}"
                )


def whole_png(content: bytes) -> bool:
    """Whether bytes are a PNG image to its end, each chunk with the checksum that it states."""
    if not content.startswith(SIGNATURE):
        return False
    at = len(SIGNATURE)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        stated = int.from_bytes(content[end - 4 : end], "big")
        if end > len(content) or zlib.crc32(content[at + 4 : end - 4]) != stated:
            return False
        if content[at + 4 : at + 8] == b"IEND":
            return True
        at = end
    return False


def read_picture(path: Path) -> Picture | None:
    """A PNG file; None where it is none, or torn."""
    content = path.read_bytes()
    return Picture(path.name, content) if whole_png(content) else None
