"""A page read strictly: what a browser would mend is an error here."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

VOID = {"meta", "img", "source", "br", "hr", "link", "input"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer"),
    *("h1", "h2", "p", "div", "span", "dl", "dt", "dd", "ul", "li", "pre", "code", "time"),
    *("table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "picture", "source"),
    "img",
}
"""Nothing that runs, and nothing that fetches; images are looked at one by one."""


class Page(HTMLParser):
    """A page's text by element, and its images, all of which have to be within it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.images: list[tuple[str, bytes]] = []
        self.alts: list[str] = []
        self.styles = ""
        assert text.startswith("<!DOCTYPE html>")
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"
        assert len(self.ids) == len(set(self.ids))
        assert not re.search(r"url\(|@import|expression", self.styles)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        given = dict(attrs)
        assert len(given) == len(attrs), f"{tag} has an attribute twice"
        assert not [name for name in given if name.startswith("on") or name == "style"]
        assert not {"href", "action", "background", "poster", "data"} & set(given)
        for name in ("src", "srcset"):
            if name in given:
                self._image(str(given[name]))
        if tag == "img":
            assert given.get("alt")
            self.alts.append(str(given["alt"]))
        if "id" in given:
            self.ids.append(str(given["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.styles += data
        elif data.strip():
            self.texts.append((self.open[-1], " ".join(data.split())))

    def _image(self, url: str) -> None:
        kind, _, content = url.partition(";base64,")
        drawn = base64.b64decode(content, validate=True)
        if kind == "data:image/svg+xml":
            # A drawing refers to nothing but itself.
            for element in ElementTree.fromstring(drawn).iter():
                assert not element.tag.endswith(("}script", "}foreignObject", "}image"))
                links = [v for n, v in element.attrib.items() if n.endswith("href")]
                assert all(link.startswith("#") for link in links)
        else:
            assert kind == "data:image/png", kind
            Image.open(io.BytesIO(drawn)).load()
        self.images.append((kind.removeprefix("data:image/"), drawn))

    def of(self, tag: str) -> list[str]:
        """The texts that stand in elements of a kind."""
        return [text for inside, text in self.texts if inside == tag]

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.texts)


@pytest.fixture(scope="session")
def page(cli: Callable[..., Any]) -> Callable[..., Page]:
    """The page that the command writes of a run, with the curves that a plugin draws, or without."""

    def written(run: Path, *, curves: bool = False) -> Page:
        plain = () if curves else ("--no-plugin", "ebmkit-core:pictures")
        said = cli("report", run, *plain)
        assert said.code == 0, said.err
        assert said.out.strip() == str(run / "report.html")
        return Page((run / "report.html").read_text(encoding="utf-8"))

    return written
