"""A docstring as Markdown, for the pages that are written from the sources."""

import re

_CODE = re.compile(r"(``.+?``)", re.DOTALL)
_SPECIAL = re.compile(r"([\\*_<`])")


def markdown(doc: str) -> str:
    """Its paragraphs as prose; those that are formulas, lists or examples as they stand."""
    return "\n\n".join(_paragraph(text) for text in re.split(r"\n{2,}", doc.strip()))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    words = re.findall(r"[a-z]{2,}", text)
    whole = text.endswith((".", ":")) or len(words) > len(text.split()) / 2
    if not whole or any(line.startswith("  ") for line in lines):
        return f"```text\n{text}\n```"
    pieces = _CODE.split(" ".join(lines))
    return "".join(p[1:-1] if _CODE.fullmatch(p) else _SPECIAL.sub(r"\\\1", p) for p in pieces)
