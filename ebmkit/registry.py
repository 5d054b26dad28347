"""Entry points -> component records. Nothing here imports a plugin until it is used."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ebmkit.errors import (
    AmbiguousPartError,
    BlockedPartError,
    BrokenPluginError,
    IncompatiblePartError,
    UnknownPartError,
    did_you_mean,
)
from ebmkit.versioning import HOME as HOME
from ebmkit.versioning import unmet, unserved

GROUPS = {
    "model": "ebmkit.models",
    "sampler": "ebmkit.samplers",
    "loss": "ebmkit.losses",
    "scheduler": "ebmkit.schedulers",
    "dataset": "ebmkit.datasets",
    "hook": "ebmkit.hooks",
    "recipe": "ebmkit.recipes",
}
KINDS = tuple(GROUPS)
_KIND_OF = {group: kind for kind, group in GROUPS.items()}


class Component(NamedTuple):
    """One entry point: what it is called, what it points to, and whose it is."""

    kind: str
    name: str
    target: str
    """``module:attribute`` as declared."""
    distribution: str
    version: str
    status: str
    """ok, blocked, conflict, broken or incompatible."""
    reason: str = ""
    """Why the status is not ok."""

    @property
    def module(self) -> str:
        return self.target.partition(":")[0].strip()

    @property
    def attribute(self) -> str:
        return self.target.partition(":")[2].split("[")[0].strip()

    @property
    def qualified(self) -> str:
        """``dist:name``, which is never ambiguous."""
        return f"{self.distribution}:{self.name}"

    @property
    def whose(self) -> str:
        """The part and its owner, as messages name them."""
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version}"

    def broken(self, how: str) -> str:
        """What users read where it cannot be used for a fault of its own."""
        return (
            f"{self.whose} {how}; mend or update the distribution, or switch it off with --no-plugin "
            f"{self.distribution}"
        )

    @property
    def chosen(self) -> str:
        """The shortest name that means this component and no other."""
        return self.qualified if self.status == "conflict" else self.name


class Registry:
    """The parts that the installed distributions offer."""

    def __init__(self, components: Iterable[Component], unreadable: Iterable[str] = ()) -> None:
        self.unreadable = tuple(unreadable)
        """Distributions whose entry points cannot be read, each with the reason."""
        self.components = tuple(sorted(components, key=lambda c: (KINDS.index(c.kind), c[1:4])))
        self._failed: dict[str, BrokenPluginError] = {}

    def of_kind(self, kind: str) -> tuple[Component, ...]:
        """All components of a kind, whatever their status."""
        if kind not in GROUPS:
            raise UnknownPartError(
                f"there is no kind {kind!r}{did_you_mean(kind, KINDS)} (kinds: {', '.join(KINDS)})"
            )
        return tuple(c for c in self.components if c.kind == kind)

    def names(self, kind: str) -> list[str]:
        """The names of a kind that can be used."""
        return sorted({c.name for c in self.of_kind(kind) if c.status in ("ok", "conflict")})

    def find(self, kind: str, name: str) -> Component:
        """The component of a kind called ``name``, or ``dist:name``, if it can be used."""
        distribution, _, bare = name.rpartition(":")
        found = [
            c
            for c in self.of_kind(kind)
            if c.name == bare and (not distribution or same(c.distribution, distribution))
        ]
        if not found:
            raise UnknownPartError(self._unknown(kind, distribution, bare))
        if len(found) > 1:
            usable = [c for c in found if c.status in ("ok", "conflict")]
            if len(usable) > 1:
                raise AmbiguousPartError(self.clash(kind, bare))
            found = usable or found
        component = found[0]
        if component.status == "blocked":
            raise BlockedPartError(
                f"{kind} {bare!r} of {component.distribution} is blocked: {component.reason}"
            )
        if component.status == "incompatible":
            raise IncompatiblePartError(f"{component.whose} cannot be used: {component.reason}")
        return component

    def clash(self, kind: str, name: str) -> str:
        """Who offers a name that several offer, and how one of them is chosen."""
        rivals = [
            c for c in self.of_kind(kind) if c.name == name and c.status in ("ok", "conflict")
        ]
        owners = " and ".join(f"{c.distribution} {c.version}" for c in rivals)
        choices = " or ".join(f"{c.qualified!r}" for c in rivals)
        return f"{kind} {name!r} is offered by {owners}; choose one by writing {choices}"

    def load(self, component: Component) -> Any:
        """Import what a component points to.

        Raises:
            BrokenPluginError: the import failed, or the module has no such attribute. The message
                names distribution and module, and the original error is chained.
        """
        from ebmkit.watching import imported

        try:
            value = imported(component)
            for attribute in component.attribute.split("."):
                value = getattr(value, attribute) if attribute else value
        except (Exception, SystemExit) as error:
            said = f"{component.target} raised {type(error).__name__}: {error}"
            broken = BrokenPluginError(component.broken(f"cannot be imported: {said}"))
            self._failed[component.target] = broken
            raise broken from error
        return value

    def checked(self) -> Iterator[Component]:
        """All components, with those marked broken whose source is missing or whose import failed."""
        from ebmkit.sources import missing

        for component in self.components:
            failed = self._failed.get(component.target)
            reason = str(failed) if failed else missing(component)
            if component.status in ("ok", "conflict") and reason:
                component = component._replace(status="broken", reason=reason)
            yield component

    def _unknown(self, kind: str, distribution: str, name: str) -> str:
        known = self.names(kind)
        offered = f"(known: {', '.join(known) or 'none'})"
        if distribution.partition(".")[0] in sys.stdlib_module_names or "." in name:
            return (
                f"no {kind} is called {f'{distribution}:{name}'.lstrip(':')!r}"
                f"{did_you_mean(name, known)}; a part is named as a plugin offers it, and nothing is "
                f"ever imported by a path of Python's {offered}"
            )
        if distribution and not any(same(c.distribution, distribution) for c in self.components):
            return (
                f"{kind} {name!r} of {distribution}: no plugin distribution of that name is "
                f"installed; pip install {distribution}"
            )
        where = f" in {distribution}" if distribution else ""
        other = [k for k in KINDS if k != kind and name in self.names(k)]
        elsewhere = f" ({name!r} is the name of a {' and a '.join(other)})" if other else ""
        return (
            f"no {kind} is called {name!r}{where}{did_you_mean(name, known)}{elsewhere} {offered}"
        )


def same(one: str, other: str) -> bool:
    """Whether two distribution names are one by the rules of the package index."""
    return normalised(one) == normalised(other)


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


_blocks: list[str] = []


@functools.cache
def registry() -> Registry:
    """The registry of this process: one scan of metadata, honouring the environment variables
    ``EBMKIT_DISABLE_PLUGINS`` (``DIST[:NAME],…``) and ``EBMKIT_DISABLE_THIRD_PARTY=1``."""
    said = os.environ.get("EBMKIT_DISABLE_PLUGINS", "").split(",")
    return scan(
        blocks=[b for b in (*said, *_blocks) if b.strip()],
        third_party=os.environ.get("EBMKIT_DISABLE_THIRD_PARTY", "") in ("", "0"),
    )


def block(names: Iterable[str]) -> None:
    """Switch off ``DIST`` or ``DIST:NAME`` for the rest of this process, before any is imported."""
    _blocks.extend(names)
    registry.cache_clear()


def scan(blocks: Iterable[str] = (), *, third_party: bool = True) -> Registry:
    """Read the entry points of every installed distribution, importing none of them."""
    blocked = [_block(b) for b in blocks]
    found: list[Component] = []
    unreadable: list[str] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt")
            if not text or "ebmkit." not in text:
                continue
            headers = distribution.metadata  # parsed anew at each access
            name, version = str(headers["Name"] or ""), str(headers["Version"] or "")
            requires = headers.get_all("Requires-Dist", [])
            keywords = headers.get_all("Keywords", [])
            entries = tuple(distribution.entry_points)
            if not name or not version:
                raise ValueError("its metadata state no name or no version")
            if not all(entry.name.isprintable() and entry.name for entry in entries):
                raise ValueError("an entry point of it has no name, or one that cannot be printed")
        except (KeyError, ValueError, AttributeError, TypeError, OSError) as error:
            # Where the metadata fail, the folder that holds them is all that says whose they are. The
            # package importlib_metadata, once anything imports it, finds them too and raises OSErrors.
            place = getattr(distribution, "_path", "a distribution without a folder")
            said = f"{place}: {type(error).__name__}: {error}"
            unreadable.append(f"{said}; reinstall or uninstall the distribution")
            continue
        if normalised(name) in seen:
            continue  # an earlier path entry shadows this one, as it does for imports
        seen.add(normalised(name))
        incompatible = _incompatible(name, requires) or unserved(keywords)
        for entry in entries:
            kind = _KIND_OF.get(entry.group)
            if kind is None:
                continue
            status, reason = "ok", ""
            if not third_party and not same(name, HOME):
                status, reason = "blocked", "EBMKIT_DISABLE_THIRD_PARTY is set"
            elif any(same(name, d) and n in ("", entry.name) for d, n in blocked):
                status, reason = "blocked", "--no-plugin or EBMKIT_DISABLE_PLUGINS names it"
            elif incompatible:
                status, reason = "incompatible", incompatible
            found.append(Component(kind, entry.name, entry.value, name, version, status, reason))
    return Registry(_with_conflicts(found), unreadable)


def _block(text: str) -> tuple[str, str]:
    return text.strip().partition(":")[::2]


def _with_conflicts(components: list[Component]) -> Iterator[Component]:
    owners: dict[tuple[str, str], Counter[str]] = {}
    for c in components:
        if c.status == "ok":
            owners.setdefault((c.kind, c.name), Counter())[c.distribution] += 1
    for c in components:
        rivals = owners.get((c.kind, c.name), Counter())
        if c.status == "ok" and rivals.total() > 1:
            others = ", ".join(r for r in rivals if r != c.distribution)
            yield c._replace(status="conflict", reason=f"also offered by {others}")
        else:
            yield c


def _incompatible(name: str, requires: Iterable[str]) -> str:
    """Why a distribution does not fit the installed ebmkit-core; empty where it does."""
    if same(name, HOME):
        return ""
    for text in requires:
        required = re.match(r"ebmkit[-_.]core\s*(?:\[[^]]*\])?\s*\(?([^;)]*)", text, re.IGNORECASE)
        if required and (reason := unmet(required[1].strip())):
            return reason
    return ""
