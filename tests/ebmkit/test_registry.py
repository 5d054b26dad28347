"""Distributions made up for the test, seen through the metadata as any installed one is."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

import ebmkit
from ebmkit.errors import (
    AmbiguousPartError,
    BlockedPartError,
    BrokenPluginError,
    IncompatiblePartError,
    UnknownPartError,
)
from ebmkit.registry import GROUPS, HOME, Component, Registry, block, registry, same, scan

SAMPLER = '''
"""A sampler that stays where it is."""
from typing import Any, NamedTuple


class State(NamedTuple):
    x: Any


class Still:
    """Stays where it is.

    Further words.
    """

    def __init__(self, step_size: float = 1.0) -> None:
        self.step_size = step_size

    def init(self, energy, x):
        return State(x)

    def draw(self, state, *, generator):
        return None

    def step(self, energy, state, noise):
        return state, {}
'''
STILL = {"ebmkit.samplers": {"still": "foo_still:Still"}}


def only(found: Registry, kind: str, name: str) -> list[Component]:
    return [c for c in found.checked() if c.kind == kind and c.name == name]


def test_a_third_party_is_found_as_a_built_in_is(install: Any) -> None:
    install("foo-still", STILL, {"foo_still.py": SAMPLER}, version="2.3")
    (found,) = only(scan(), "sampler", "still")
    assert found == Component("sampler", "still", "foo_still:Still", "foo-still", "2.3", "ok", "")
    assert "foo_still" not in sys.modules
    part = ebmkit.create("sampler", "still", step_size=2)
    assert part.step_size == 2.0
    assert isinstance(part.step_size, float)


def test_every_group_has_its_kind(install: Any) -> None:
    install("foo", {group: {"thing": "nowhere:Thing"} for group in GROUPS.values()})
    found = [c for c in scan().components if c.distribution == "foo"]
    assert [c.kind for c in found] == list(GROUPS)


def test_groups_of_others_are_left_alone(install: Any) -> None:
    install("foo", {"console_scripts": {"x": "a:b"}, "ebmkit.unheard": {"y": "a:b"}})
    assert not [c for c in scan().components if c.distribution == "foo"]


class TestConflict:
    @pytest.fixture(autouse=True)
    def _two(self, install: Any) -> None:
        install("foo-still", STILL, {"foo_still.py": SAMPLER})
        target = {"ebmkit.samplers": {"still": "bar_still:Still"}}
        install("bar-still", target, {"bar_still.py": SAMPLER}, version="4.0")

    def test_both_are_listed(self) -> None:
        first, second = only(scan(), "sampler", "still")
        assert {first.status, second.status} == {"conflict"}
        assert (first.distribution, first.reason) == ("bar-still", "also offered by foo-still")
        assert (second.distribution, second.reason) == ("foo-still", "also offered by bar-still")

    def test_the_bare_name_is_refused(self) -> None:
        with pytest.raises(AmbiguousPartError) as caught:
            registry().find("sampler", "still")
        for words in ("bar-still 4.0", "foo-still 1.0", "'bar-still:still'", "'foo-still:still'"):
            assert words in str(caught.value)

    def test_the_qualified_name_chooses(self) -> None:
        part = ebmkit.create("sampler", "foo-still:still")
        assert type(part).__module__ == "foo_still"
        assert type(ebmkit.create("sampler", "Bar_Still:still")).__module__ == "bar_still"

    def test_the_command_says_how_to_choose(self, cli: Callable[..., Any]) -> None:
        said = cli("describe", "sampler", "still")
        assert said.code == 2
        assert "'foo-still:still'" in said.errors[0]
        assert cli("describe", "sampler", "foo-still:still").code == 0

    def test_a_block_settles_it(self) -> None:
        block(["foo-still"])
        assert registry().find("sampler", "still").distribution == "bar-still"
        assert [c.status for c in only(registry(), "sampler", "still")] == ["ok", "blocked"]

    def test_other_parts_are_untouched(self) -> None:
        assert registry().find("sampler", "langevin").status == "ok"

    def test_a_pipeline_records_which_was_chosen(self, small: Any) -> None:
        spec = small | {"sampler": {"use": "foo-still:still"}}
        tables = ebmkit.compose(spec).tables
        assert tables["parts"]["sampler:foo-still:still"] == "foo-still==1.0"
        assert tables["sampler"]["use"] == "foo-still:still"
        assert ebmkit.compose(tables).tables == tables


def test_a_clash_with_a_built_in_is_a_conflict_like_any_other(install: Any, small: Any) -> None:
    target = {"ebmkit.samplers": {"langevin": "foo_still:Still"}}
    install("foo-still", target, {"foo_still.py": SAMPLER})
    with pytest.raises(AmbiguousPartError, match=f"'{HOME}:langevin'"):
        registry().find("sampler", "langevin")
    with pytest.raises(ebmkit.SpecError, match="foo-still:langevin"):
        ebmkit.compose(small)
    built_in = ebmkit.create("sampler", f"{HOME}:langevin")
    assert type(built_in).__name__ == "Langevin"
    assert type(ebmkit.create("sampler", "foo-still:langevin")).__name__ == "Still"


def test_aliases_are_entries_on_one_target_and_no_conflict() -> None:
    for short, long in (
        ("cd", "contrastive-divergence"),
        ("pcd", "persistent-contrastive-divergence"),
    ):
        one, other = (registry().find("loss", name) for name in (short, long))
        assert one.target == other.target
        assert {one.status, other.status} == {"ok"}


class TestBlocking:
    @pytest.fixture(autouse=True)
    def _one(self, install: Any) -> None:
        names = {"ebmkit.samplers": {"still": "foo_still:Still", "quiet": "foo_still:Still"}}
        install("foo-still", names, {"foo_still.py": SAMPLER})

    def statuses(self) -> dict[str, str]:
        return {c.name: c.status for c in registry().components if c.distribution == "foo-still"}

    def test_a_whole_distribution(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EBMKIT_DISABLE_PLUGINS", " Foo.Still ")
        assert self.statuses() == {"quiet": "blocked", "still": "blocked"}
        with pytest.raises(BlockedPartError, match=r"foo-still is blocked: .*DISABLE_PLUGINS"):
            registry().find("sampler", "still")
        assert "still" not in registry().names("sampler")

    def test_one_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EBMKIT_DISABLE_PLUGINS", "other,foo-still:quiet")
        assert self.statuses() == {"quiet": "blocked", "still": "ok"}

    @pytest.mark.parametrize("value", ["1", "true"])
    def test_every_third_party(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("EBMKIT_DISABLE_THIRD_PARTY", value)
        assert set(self.statuses().values()) == {"blocked"}
        assert {c.status for c in scan().components if c.distribution == HOME} == {"ok"}

    @pytest.mark.parametrize("value", ["", "0"])
    def test_the_variable_may_say_no(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("EBMKIT_DISABLE_THIRD_PARTY", value)
        assert set(self.statuses().values()) == {"ok"}

    @pytest.mark.parametrize(
        ("option", "expected"),
        [("foo-still", ["blocked", "blocked"]), ("foo-still:quiet", ["blocked", "ok"])],
    )
    @pytest.mark.parametrize("before", [True, False])
    def test_the_option(
        self, cli: Callable[..., Any], option: str, expected: list[str], before: bool
    ) -> None:
        words = ["list-plugins", "--kind", "sampler"]
        words[0 if before else 1 :][:0] = []
        at = 0 if before else len(words)
        words[at:at] = ["--no-plugin", option]
        rows = [line.split("\t") for line in cli(*words).out.splitlines()]
        assert [row[4] for row in rows if row[2] == "foo-still"] == expected

    def test_the_option_must_name_something(self, cli: Callable[..., Any]) -> None:
        for name in ("nobody", "foo-still:nothing"):
            said = cli("--no-plugin", name, "list-plugins")
            assert said.code == 2
            assert name in said.err and HOME in said.err

    def test_what_is_blocked_is_never_imported(
        self, cli: Callable[..., Any], small: Any, tmp_path: Any
    ) -> None:
        from ebmkit.spec import to_toml

        path = tmp_path / "p.toml"
        path.write_text(to_toml(small | {"sampler": {"use": "still"}}))
        assert cli("validate", path).code == 0
        del sys.modules["foo_still"]
        said = cli("--no-plugin", "foo-still", "validate", path)
        assert said.code == 2
        assert said.errors == [
            f"{path}:8: sampler.use: sampler 'still' of foo-still is blocked: "
            "--no-plugin or EBMKIT_DISABLE_PLUGINS names it"
        ]
        assert "foo_still" not in sys.modules


BROKEN = {
    "raises": ("foo_x:X", {"foo_x.py": "raise RuntimeError('no luck')"}, "RuntimeError: no luck"),
    "exits": ("foo_x:X", {"foo_x.py": "import sys; sys.exit('bye')"}, "SystemExit: bye"),
    "syntax": ("foo_x:X", {"foo_x.py": "class X(:\n"}, "SyntaxError"),
    "dependency": ("foo_x:X", {"foo_x.py": "import not_there_at_all"}, "not_there_at_all"),
    "no module": ("foo_absent:X", {}, "foo_absent"),
    "no attribute": ("foo_x:X", {"foo_x.py": "Y = 1"}, "AttributeError"),
    "no package": ("foo_absent.sub.module:X", {}, "foo_absent"),
}


@pytest.mark.parametrize("how", BROKEN)
class TestBroken:
    @pytest.fixture(autouse=True)
    def _one(self, install: Any, how: str) -> None:
        target, modules, _ = BROKEN[how]
        install("foo-x", {"ebmkit.samplers": {"x": target}}, modules)

    def test_listing_and_the_other_parts_work(self, cli: Callable[..., Any]) -> None:
        said = cli("list-plugins")
        assert said.code == 0
        assert [line for line in said.out.splitlines() if line.startswith("sampler\tx\tfoo-x")]
        assert cli("validate", "two-moons").code == 0

    def test_using_it_names_distribution_module_and_error(
        self, cli: Callable[..., Any], how: str
    ) -> None:
        target, _, original = BROKEN[how]
        said = cli("validate", "two-moons", "--set", "sampler.use=x")
        assert said.code == 1
        (message,) = said.errors
        for words in ("foo-x 1.0", target, original, "--no-plugin foo-x"):
            assert words in message

    def test_the_original_error_is_chained(self) -> None:
        with pytest.raises(BrokenPluginError) as caught:
            ebmkit.create("sampler", "x")
        assert caught.value.__cause__ is not None

    def test_afterwards_it_is_listed_as_broken(self) -> None:
        with pytest.raises(BrokenPluginError):
            ebmkit.create("sampler", "x")
        (found,) = only(registry(), "sampler", "x")
        assert found.status == "broken"
        assert "foo-x" in found.reason

    def test_describing_it_ends_without_a_traceback(self, cli: Callable[..., Any]) -> None:
        said = cli("describe", "sampler", "x")
        assert said.code == 1
        assert "foo-x" in said.errors[0]


def test_a_missing_module_is_listed_as_broken_before_use(install: Any) -> None:
    install("foo-x", {"ebmkit.samplers": {"x": "foo_absent:X"}})
    (found,) = only(scan(), "sampler", "x")
    assert (found.status, found.reason) == ("broken", "there is no module foo_absent")


WRONG_KIND = {
    "a number": "X = 3",
    "no sampler": "class X:\n    def init(self, energy, x): ...",
    "a module": "import math as X",
}


@pytest.mark.parametrize("how", WRONG_KIND)
def test_an_object_of_the_wrong_kind_is_the_plugins_fault(
    install: Any, cli: Callable[..., Any], how: str
) -> None:
    install("foo-x", {"ebmkit.samplers": {"x": "foo_x:X"}}, {"foo_x.py": WRONG_KIND[how]})
    said = cli("validate", "two-moons", "--set", "sampler.use=x")
    assert said.code == 1
    assert "foo-x" in said.errors[0] and "foo_x:X" in said.errors[0]


def test_a_package_that_offers_a_part_of_itself(install: Any) -> None:
    modules = {"foo_p/__init__.py": "raise ImportError('top')", "foo_p/inner.py": SAMPLER}
    install("foo-p", {"ebmkit.samplers": {"p": "foo_p.inner:Still"}}, modules)
    (found,) = only(scan(), "sampler", "p")
    assert found.status == "ok"
    with pytest.raises(BrokenPluginError, match="ImportError: top"):
        ebmkit.create("sampler", "p")


class TestIncompatible:
    def test_it_is_listed_and_refused(self, install: Any, cli: Callable[..., Any]) -> None:
        install("foo-still", STILL, {"foo_still.py": SAMPLER}, requires=["ebmkit_core>=99"])
        (found,) = only(scan(), "sampler", "still")
        assert found.status == "incompatible"
        assert "ebmkit-core>=99" in found.reason
        with pytest.raises(IncompatiblePartError, match=r"foo-still 1\.0 cannot be used: it needs"):
            registry().find("sampler", "still")
        assert cli("describe", "sampler", "still").code == 2
        assert "foo_still" not in sys.modules

    @pytest.mark.parametrize("text", ["ebmkit-core>=1,<2", "ebmkit-core", "other>=99"])
    def test_what_fits_is_ok(self, install: Any, text: str) -> None:
        install("foo-still", STILL, {"foo_still.py": SAMPLER}, requires=[text])
        assert only(scan(), "sampler", "still")[0].status == "ok"

    def test_a_requirement_that_nobody_can_read(self, install: Any) -> None:
        install("foo-still", STILL, {"foo_still.py": SAMPLER}, requires=["ebmkit-core >>> 1"])
        (found,) = only(scan(), "sampler", "still")
        assert found.status == "incompatible"
        assert "cannot be read" in found.reason

    def test_the_rival_of_an_incompatible_one_is_no_conflict(self, install: Any) -> None:
        install("foo-still", STILL, {"foo_still.py": SAMPLER}, requires=["ebmkit-core>=99"])
        target = {"ebmkit.samplers": {"still": "bar_still:Still"}}
        install("bar-still", target, {"bar_still.py": SAMPLER})
        assert registry().find("sampler", "still").distribution == "bar-still"


@pytest.mark.parametrize(
    "text",
    [
        "[ebmkit.samplers]\nstill\n",
        "[ebmkit.samplers]\nstill = \n",
        "[ebmkit.samplers]\n = foo:X\n",
    ],
)
def test_entry_points_that_cannot_be_read_break_nothing_else(
    install: Any, cli: Callable[..., Any], text: str
) -> None:
    install("foo-x", text)
    install("foo-still", STILL, {"foo_still.py": SAMPLER})
    said = cli("list-plugins", "--long")
    assert said.code == 0
    assert "sampler\tstill\tfoo-still" in said.out
    assert re.search("foo[-_]x", said.out + said.err)
    assert cli("validate", "two-moons").code == 0


def test_bytes_that_are_no_text_break_nothing_else(install: Any, cli: Callable[..., Any]) -> None:
    info = install("foo-x", STILL)
    (info / "entry_points.txt").write_bytes(b"[ebmkit.samplers]\nstill = \xff\xfe:X\n")
    said = cli("list-plugins")
    assert said.code == 0
    assert re.search("foo[-_]x", said.out + said.err)


def test_a_distribution_without_a_name_breaks_nothing_else(
    install: Any, cli: Callable[..., Any]
) -> None:
    info = install("foo-x", STILL)
    (info / "METADATA").unlink()
    assert cli("list-plugins").code == 0


def test_metadata_that_cannot_be_read_break_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """As distributions say it that the package importlib_metadata finds, where that is imported."""

    class Unreadable(importlib.metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            if filename == "entry_points.txt":
                return "[ebmkit.samplers]\nstill = foo_still:Still\n"
            raise FileNotFoundError("No package metadata was found.")

        def locate_file(self, path: Any) -> Any:
            return path

    ours = list(importlib.metadata.distributions())
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [Unreadable(), *ours])
    found = scan()
    assert len(found.unreadable) == 1 and "FileNotFoundError" in found.unreadable[0]
    assert only(found, "sampler", "langevin")


def test_a_distribution_that_stands_twice_on_the_path_counts_once(install: Any) -> None:
    install("foo-still", STILL, {"foo_still.py": SAMPLER}, version="1.0")
    install("Foo_Still", STILL, version="2.0")
    assert len(only(scan(), "sampler", "still")) == 1


def test_unknown_kinds_and_names() -> None:
    with pytest.raises(UnknownPartError, match="no kind 'samplers'; did you mean 'sampler'"):
        registry().of_kind("samplers")
    with pytest.raises(
        UnknownPartError,
        match=r"did you mean 'langevin'\? \(known: adaptive, annealed-langevin, gibbs",
    ):
        registry().find("sampler", "langevn")
    with pytest.raises(UnknownPartError, match=r"'mlp' is the name of a model"):
        registry().find("sampler", "mlp")
    with pytest.raises(UnknownPartError, match="pip install ebmkit-nowhere"):
        registry().find("sampler", "ebmkit-nowhere:slice")
    with pytest.raises(UnknownPartError, match=f"no sampler is called 'slice' in {HOME}"):
        registry().find("sampler", f"{HOME}:slice")


def test_names_of_distributions_are_compared_as_the_index_does() -> None:
    assert same("Foo.Bar_baz", "foo-bar-BAZ")
    assert not same("foo", "foo-bar")


def test_every_built_in_resolves_and_is_well() -> None:
    for component in registry().checked():
        assert component.status == "ok", component
        if component.kind != "recipe":
            assert registry().load(component) is not None
