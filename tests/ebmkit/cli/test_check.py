"""The command that tries the laws on plugins; the laws themselves are replaced by two of the test's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ebmkit.cli import check
from ebmkit.testing import everything as _every_law  # noqa: F401
from ebmkit.testing import laws
from ebmkit.testing.laws import Cases, law
from ebmkit.testing.subject import Subject

Command = Callable[..., Any]
TEXT = """
class X:
    examples = ({"a": 1}, {"a": 2})

    def __init__(self, a=1):
        self.a = a

    def __call__(self, step):
        return self.a


class NoExample:
    def __init__(self, a):
        raise OSError("no luck")

    def __call__(self, step):
        return self.a
"""


@pytest.fixture(autouse=True)
def _two_laws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "LAWS", {})
    monkeypatch.setattr("ebmkit.testing.reports.LAWS", laws.LAWS)

    @law("scheduler", why="the test says so", means="nothing")
    def is_one(subject: Subject, cases: Cases) -> None:
        for step in range(3):
            with cases.case(f"step {step}, seed {cases.seed}"):
                value = subject.make()(step)
                cases.expect(value == 1, f"expected 1, got {value}")

    @law("scheduler", why="the test says so", means="nothing", applies=lambda _: "it cannot be")
    def is_not_asked(subject: Subject, cases: Cases) -> None:
        raise AssertionError


@pytest.fixture
def one(install: Any) -> None:
    install(
        "foo-x", {"ebmkit.schedulers": {"one": "foo_x:X"}}, {"foo_x.py": TEXT.replace("2}", "1}")}
    )


def test_all_kept(cli: Command, one: None) -> None:
    said = cli("check")
    assert said.code == 0, said.out
    assert said.out.splitlines() == [
        "scheduler foo-x:one",
        "  scheduler X(a=1): 1 law kept, 3 cases",
        "    not asked: is-not-asked (it cannot be)",
        "  scheduler X(a=1): 1 law kept, 3 cases",
        "    not asked: is-not-asked (it cannot be)",
        "1 part, 1 law, 6 cases: all laws kept",
    ]


@pytest.mark.parametrize("name", ["foo-x", "Foo_X", "foo-x:one"])
def test_by_name_as_json(cli: Command, install: Any, name: str) -> None:
    entries = {"ebmkit.schedulers": {"one": "foo_x:X", "alias": "foo_x:X"}}
    install("foo-x", entries, {"foo_x.py": TEXT})
    said = cli("check", name, "--seed", 7, "--json")
    assert said.code == 1
    found = json.loads(said.out)
    assert (found["good"], found["seed"]) == (False, 7)
    counts = {"parts": 1, "not_tried": 0, "cases": 4, "kept": 0, "broken": 1, "raised": 0}
    assert (found["counts"], found["crashes"]) == (counts, [])
    first, second = found["parts"]
    assert first["part"] == ("scheduler foo-x:one" if ":" in name else "scheduler foo-x:alias")
    assert (first["configuration"], first["good"], first["cases"]) == ({"a": "1"}, True, 3)
    assert (second["configuration"], second["good"], second["cases"]) == ({"a": "2"}, False, 1)
    assert second["laws"] == [
        {
            "law": "is-one",
            "status": "broken",
            "cases": 1,
            "reason": "expected 1, got 2 (case: step 0, seed 7)",
        },
        {"law": "is-not-asked", "status": "not asked", "cases": 0, "reason": "it cannot be"},
    ]


def test_what_cannot_be_checked_is_no_success(cli: Command, install: Any) -> None:
    entries = {
        "ebmkit.schedulers": {"no-example": "foo_x:NoExample", "gone": "foo_x:Gone"},
        "ebmkit.samplers": {"wrong": "foo_x:X"},
        "ebmkit.datasets": {"no-law": "foo_x:D"},
    }
    text = TEXT + "\n\nclass D:\n    event_shape = 2,\n    def draw(self, size, *, generator): ..."
    install("foo-x", entries, {"foo_x.py": text})
    install("bar-x", {"ebmkit.losses": {"old": "bar_x:X"}}, requires=["ebmkit-core>=99"])
    said = cli("check")
    assert said.code == 1
    for line in (
        "is no sampler: foo_x:X lacks init, draw, step; mend",
        "  cannot be checked: it needs ebmkit-core>=99",
        "cannot be imported: foo_x:Gone raised AttributeError",
        "a has no default, and the kit cannot know",
        "  nothing was tried, which is no success",
        "5 parts, 0 laws, 0 cases: 5 parts could not be tried in full",
    ):
        assert line in said.out, line


RAISES = """
class X:
    examples = ({"a": 1}, {"a": 2}, {"a": 3})

    def __init__(self, a=1):
        self.a = a

    def __call__(self, step):
        return 1 if self.a == 1 else 5 if self.a == 3 else {}[step]
"""


@pytest.fixture
def raising(install: Any) -> None:
    """A part that raises in three laws in one configuration of three, and breaks one in another."""
    install("foo-x", {"ebmkit.schedulers": {"one": "foo_x:X"}}, {"foo_x.py": RAISES})

    def no_more(subject: Subject, cases: Cases) -> None:
        with cases.case("more"):
            subject.make()(0)

    for name in ("asks_more", "asks_again"):
        no_more.__name__ = name
        law("scheduler", why="the test says so", means="nothing")(no_more)


def test_what_is_raised_is_shown_once_and_counted_as_such(cli: Command, raising: None) -> None:
    said = cli("check")
    assert said.code == 1
    lines = said.out.splitlines()
    assert "  scheduler X(a=2): 0 laws kept, 3 that raised, 3 cases" in lines
    at = lines.index(
        "    3 laws could not be asked, because the part raised: is-one, asks-more, asks-again"
    )
    assert lines[at + 1] == "      raised for: scheduler X(a=2), case: step 0, seed 0"
    assert "      KeyError: 0" in lines[at + 2 : at + 6]
    assert said.out.count("in __call__") == 1
    # What the law means for users is told of the one that is broken.
    assert said.out.count("for users: nothing") == 1
    # Kept where a is 1; each law is counted once, by the worst that became of it.
    assert lines[-1] == "1 part, 3 laws, 11 cases: 0 kept, 1 broken, 2 that raised"


def test_what_is_raised_in_json(cli: Command, raising: None) -> None:
    said = cli("check", "--json")
    assert said.code == 1
    found = json.loads(said.out)
    counts = {"parts": 1, "not_tried": 0, "cases": 11, "kept": 0, "broken": 1, "raised": 2}
    assert found["counts"] == counts
    [crash] = found["crashes"]
    assert crash["part"] == "scheduler foo-x:one"
    assert (crash["type"], crash["message"], crash["case"]) == ("KeyError", "0", "step 0, seed 0")
    assert crash["place"].endswith("foo_x.py:9")
    assert crash["laws"] == ["is-one", "asks-more", "asks-again"]
    laws = found["parts"][1]["laws"]
    assert [law.get("crash") for law in laws] == [0, None, 0, 0]
    assert not any("crash" in law for law in found["parts"][2]["laws"])


def test_another_configuration_refers_to_the_first(cli: Command, install: Any) -> None:
    text = RAISES.replace('{"a": 3}', '{"a": 4}')
    install("foo-x", {"ebmkit.schedulers": {"one": "foo_x:X"}}, {"foo_x.py": text})
    said = cli("check")
    assert said.out.count("in __call__") == 1
    assert (
        "    1 law could not be asked, because the part raised the same as above, for scheduler "
        "X(a=2): is-one\n      KeyError: 0 ("
    ) in said.out


def test_a_configuration_that_cannot_be_made_is_counted_beside_laws(
    cli: Command, install: Any
) -> None:
    text = TEXT.replace('{"a": 2}', '{"b": 2}')
    install("foo-x", {"ebmkit.schedulers": {"one": "foo_x:X"}}, {"foo_x.py": text})
    said = cli("check")
    assert said.code == 1
    assert said.out.splitlines()[-1] == (
        "1 part, 1 law, 3 cases: 1 kept, 0 broken, 0 that raised; 1 part could not be tried in full"
    )


def test_built_ins(cli: Command, one: None) -> None:
    said = cli("check", "--built-in", "--json")
    parts = {part["part"] for part in json.loads(said.out)["parts"]}
    assert {"scheduler foo-x:one", "scheduler ebmkit-core:cosine"} <= parts
    assert not any(part.startswith("recipe") for part in parts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is nothing to check: no plugin is installed beside ebmkit's own parts"),
        (("ebmkit-coer",), "no installed distribution 'ebmkit-coer' offers parts; did you mean"),
        (("ebmkit-core:cosin",), "ebmkit-core offers no 'cosin'; did you mean 'cosine'?"),
        (("ebmkit-core:two-moons-dsm",), "ebmkit-core offers no 'two-moons-dsm'"),
        (("--no-plugin", "ebmkit-core:cosine", "ebmkit-core:cosine"), "cosine is blocked"),
        (("--no-plugin", "ebmkit-core", "--built-in"), "there is nothing to check"),
    ],
)
def test_mistakes(cli: Command, words: tuple[str, ...], message: str) -> None:
    said = cli("check", *words)
    assert (said.code, said.out) == (2, "")
    assert message in said.errors[0]


def test_without_hypothesis(cli: Command, one: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "find_spec", lambda name: None)
    said = cli("check")
    assert said.code == 2
    assert said.errors == [
        "the laws are tried on inputs that hypothesis makes, and it is not installed: pip install "
        "'ebmkit-core[testing]'"
    ]
