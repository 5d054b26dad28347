"""Looks at a built site: every link inside it leads somewhere, nothing is fetched from elsewhere, and
its search knows every page.

    python tests/site/check_site.py SITE
"""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

# What Sphinx writes beside the pages.
WITHOUT_TEXT = {"genindex.html", "search.html"}
FETCHED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}


class Page(HTMLParser):
    """What a page links to, what it fetches, and what can be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if anchor := found.get("id"):
            self.anchors.add(anchor)
        if tag == "a" and (target := found.get("href")):
            self.links.append(target)
        if (name := FETCHED.get(tag)) and (target := found.get(name)):
            self.fetched.append(target)


def faults(site: Path) -> list[str]:
    """What is wrong with the site, a line each."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        place = path.relative_to(site)
        outside = [
            x for x in page.fetched if urlparse(x).scheme not in ("", "data") or x[:2] == "//"
        ]
        found += [f"{place}: fetches {target[:100]}" for target in outside]
        for target in page.links + page.fetched:
            url, anchor = urldefrag(target)
            if urlparse(url).scheme or url.startswith("//"):
                continue
            aim = (path.parent / unquote(url.split("?")[0])).resolve() if url else path
            if not aim.exists():
                found.append(f"{place}: leads to {target}, which is not there")
            elif anchor and aim in pages and unquote(anchor) not in pages[aim].anchors:
                found.append(f"{place}: leads to {target}, and that page has no such place")
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    known = json.loads(index[index.index("(") + 1 : index.rindex(")")])["docnames"]
    for path in pages:
        name = path.relative_to(site).with_suffix("").as_posix()
        if path.name not in WITHOUT_TEXT and name not in known:
            found.append(f"{path.relative_to(site)}: cannot be found by searching")
    return found


def main() -> None:
    site = Path(sys.argv[1]).resolve()
    if not (site / "index.html").is_file():
        raise SystemExit(f"{sys.argv[1]}: expected a built site, found no index.html there")
    found = faults(site)
    if found:
        raise SystemExit("\n".join(found))
    print(f"{len(list(site.rglob('*.html')))} pages: all links lead somewhere")  # noqa: T201


if __name__ == "__main__":
    main()
