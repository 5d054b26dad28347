"""The version of the protocols, the range of it that a plugin serves, and what is to be removed.

A plugin states its range as a keyword of its distribution, ``ebmkit-protocol~=1.0``: the one free field
of a distribution's metadata that installers do not act upon and every build backend keeps.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable, Iterator

HOME = "ebmkit-core"
PROTOCOL = "1.0"
"""Version of the five protocols, the hooks and the entry-point groups: MAJOR rises when a part that
keeps to them has to change, MINOR when there is more that a part may offer or use."""

_KEYWORD = re.compile(r"ebmkit[-_.]protocol(?![-\w])\s*(.*)", re.IGNORECASE)


class EbmkitDeprecationWarning(DeprecationWarning):
    """Something that a later release, which the message names, no longer has.

    A plugin or a script uses a name or an argument that has been replaced.
    Remedy: what the message names in its place.
    """


def deprecated(what: str, *, removed_in: str, instead: str, stacklevel: int = 2) -> None:
    """Warn that ``what`` goes, in which release of ebmkit-core, and what takes its place.

    ``stacklevel`` is as in ``warnings.warn``, counted from the caller: 2 is whoever called it.
    """
    warnings.warn(
        f"{what} is deprecated and will be removed in ebmkit-core {removed_in}; use {instead}",
        EbmkitDeprecationWarning,
        stacklevel=stacklevel + 1,
    )


def unserved(keywords: Iterable[str]) -> str:
    """Why a distribution of such Keywords metadata does not serve this protocol; empty where it does
    or does not say."""
    ranges = ",".join(_ranges(keywords))
    if not ranges:
        return ""
    from importlib.metadata import version

    from packaging.specifiers import SpecifierSet

    try:
        fits = SpecifierSet(ranges).contains(PROTOCOL)
    except ValueError:  # no specifier, or numbers in it that are too long
        return f"its keyword ebmkit-protocol{ranges} cannot be read; an example is ebmkit-protocol~=1.0"
    if fits:
        return ""
    return (
        f"it serves protocol {ranges} and ebmkit-core {version('ebmkit-core')} has protocol "
        f"{PROTOCOL}; update one of the two"
    )


@functools.cache
def unmet(specifier: str) -> str:
    """Why the installed ebmkit-core does not fit a version specifier; empty where it does."""
    if not specifier:
        return ""
    from importlib.metadata import version

    from packaging.specifiers import SpecifierSet

    installed = version(HOME)
    try:
        fits = SpecifierSet(specifier).contains(installed, prereleases=True)
    except ValueError:  # no specifier, or numbers in it that are too long
        return f"its requirement {HOME} {specifier!r} cannot be read"
    if fits:
        return ""
    return f"it needs {HOME}{specifier} and {installed} is installed; update one of the two"


def _ranges(keywords: Iterable[str]) -> Iterator[str]:
    """Version specifiers among keywords. They are separated by commas in the metadata, as the clauses
    of one specifier are, but no other keyword begins with a comparison."""
    inside = False
    for word in (part.strip() for line in keywords for part in line.split(",")):
        if stated := _KEYWORD.fullmatch(word):
            inside = True
            yield stated[1] or "(nothing)"
        elif inside and word.startswith(("<", ">", "=", "!", "~")):
            yield word
        else:
            inside = False
