"""What is read from source agrees with what an import would say."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

import pytest

from ebmkit import sources
from ebmkit.parameters import REQUIRED, parameters
from ebmkit.registry import KINDS, Component, registry, scan

BUILT_INS = [c for c in scan(third_party=False).components if c.status == "ok"]
PARTS = [c for c in BUILT_INS if c.kind not in ("recipe", "hook")]
NAMES = [f"{c.kind}:{c.name}" for c in PARTS]


@pytest.mark.parametrize("component", PARTS, ids=NAMES)
class TestBuiltIns:
    def test_static_fields_are_the_dynamic_ones(self, component: Component) -> None:
        source = sources.read(component)
        assert source is not None
        dynamic = parameters(registry().load(component))
        assert [f.name for f in source.fields] == list(dynamic)
        for said in source.fields:
            real = dynamic[said.name]
            assert (said.default is None) == (real.default is REQUIRED), said.name
            try:
                value = ast.literal_eval(said.default or "")
            except (ValueError, SyntaxError):
                continue
            assert value == real.default, said.name
            assert type(value) is type(real.default), said.name

    def test_every_field_is_typed_and_documented(self, component: Component) -> None:
        source = sources.read(component)
        assert source is not None
        for said in source.fields:
            assert said.type, said.name
            assert said.doc, said.name

    def test_the_summary_is_the_docstrings_first_line(self, component: Component) -> None:
        loaded = registry().load(component)
        assert sources.summary(component) == loaded.__doc__.strip().splitlines()[0]
        source = sources.read(component)
        assert source is not None
        assert (
            source.path.read_text(encoding="utf-8")
            .splitlines()[source.line - 1]
            .startswith("class ")
        )

    def test_bounds_are_said_in_words(self, component: Component) -> None:
        source = sources.read(component)
        assert source is not None
        for said in source.fields:
            assert "lambda" not in said.bounds, said.bounds
            assert "<function" not in said.bounds, said.bounds


@pytest.mark.parametrize("component", BUILT_INS, ids=[f"{c.kind}:{c.name}" for c in BUILT_INS])
def test_every_built_in_has_a_summary(component: Component) -> None:
    assert sources.summary(component).endswith(".")
    assert sources.missing(component) == ""


STYLES = '''
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
import attrs
from attrs import field
from attrs.validators import and_, ge, gt, in_, le, min_len, optional
from ebmkit import doc, scheduled


@attrs.frozen
class Base:
    first: int = 3
    second: float = field(default=0.5, validator=and_(gt(0), le(1)), metadata=doc("of two " "words"))


@attrs.frozen
class Attrs(Base):
    """Summary of Attrs."""

    KNOWN: ClassVar[int] = 1
    third: str = field(default="a", validator=in_(("a", "b")))
    many: list[int] = field(factory=lambda: [1, 2], validator=min_len(1))
    hidden: int = field(init=False, default=3)
    maybe: float | None = field(default=None, validator=optional(scheduled(ge(0))))
    dictionary: dict[str, int] = field(factory=dict)


@dataclass
class Data:
    """Summary of Data."""

    a: int
    b: float = 2.0


class Plain:
    \'\'\'Summary of Plain.\'\'\'

    def __init__(self, a: int, b: float = 1.5, *, c: str = "x", d: bool) -> None:
        ...


class Commented(Base):  # a remark
    # another
    """
    Summary of Commented.
    """


def function(step: int, *, value: float = 1e-3):
    """Summary of function."""
'''
SUMMARIES = {name: f"Summary of {name}." for name in ("Attrs", "Data", "Plain", "Commented")}


@pytest.fixture
def styles(install: Any) -> Callable[[str], Component]:
    targets = ("Attrs", "Data", "Plain", "Commented", "function", "Nothing")
    entries = {name.lower(): f"foo_styles:{name}" for name in targets}
    entries |= {"moved": "foo_other:Renamed", "circular": "foo_other:Round"}
    other = "from foo_styles import Attrs as Renamed\nfrom foo_other import Round\n"
    modules = {"foo_styles.py": STYLES, "foo_other.py": other}
    install("foo-styles", {"ebmkit.losses": entries}, modules)
    return lambda name: registry().find("loss", name)


def test_fields_of_the_usual_styles(styles: Callable[[str], Component]) -> None:
    def rows(name: str) -> list[tuple[str, str, str | None]]:
        source = sources.read(styles(name))
        assert source is not None
        return [(f.name, f.type, f.default) for f in source.fields]

    base = [("first", "int", "3"), ("second", "float", "0.5")]
    assert rows("attrs") == [
        *base,
        ("third", "str", "'a'"),
        ("many", "list[int]", "[1, 2]"),
        ("maybe", "float | None", "None"),
        ("dictionary", "dict[str, int]", "dict()"),
    ]
    assert rows("data") == [("a", "int", None), ("b", "float", "2.0")]
    assert rows("plain") == [
        ("a", "int", None),
        ("b", "float", "1.5"),
        ("c", "str", "'x'"),
        ("d", "bool", None),
    ]
    assert rows("commented") == base
    assert rows("function") == [("step", "int", None), ("value", "float", "0.001")]
    assert rows("moved") == rows("attrs")


def test_bounds_and_docs(styles: Callable[[str], Component]) -> None:
    source = sources.read(styles("attrs"))
    assert source is not None
    said = {f.name: (f.bounds, f.doc) for f in source.fields}
    assert said["second"] == ("> 0, ≤ 1", "of two words")
    assert said["third"] == ("one of ('a', 'b')", "")
    assert said["many"] == ("at least 1 of them", "")
    assert said["maybe"] == ("≥ 0", "")


def test_summaries(styles: Callable[[str], Component]) -> None:
    for name, expected in SUMMARIES.items():
        assert sources.summary(styles(name.lower())) == expected
    assert sources.summary(styles("function")) == "Summary of function."
    assert sources.summary(styles("moved")) == "Summary of Attrs."


def test_what_the_source_does_not_tell(
    styles: Callable[[str], Component], cli: Callable[..., Any]
) -> None:
    for name in ("nothing", "circular"):
        assert sources.read(styles(name)) is None
        assert sources.summary(styles(name)) == ""
        said = cli("describe", "loss", name)
        assert said.code == 1
        assert "foo-styles" in said.errors[0]


@pytest.mark.parametrize("text", [b"\xff\xfe", b"class X(:\n", b"", b"\x00"])
def test_sources_that_are_no_python_do_not_stop_a_listing(
    install: Any, cli: Callable[..., Any], text: bytes
) -> None:
    install("foo-x", {"ebmkit.losses": {"x": "foo_x:X"}}, {"foo_x.py": ""})
    (install.folder / "foo_x.py").write_bytes(text)
    assert cli("list-plugins", "--long").code == 0
    assert cli("describe", "loss", "x").code == 1


@pytest.mark.parametrize("kind", KINDS)
def test_describe_agrees_with_the_source(kind: str, cli: Callable[..., Any]) -> None:
    for component in registry().of_kind(kind):
        said = cli("describe", kind, component.name)
        assert said.code == 0
        if kind == "recipe":
            assert said.out.rstrip() == cli("recipes", component.name).out.rstrip()
            continue
        told = json.loads(cli("describe", kind, component.name, "--json").out)
        source = sources.read(component)
        assert source is not None
        assert [f["name"] for f in told["fields"]] == [f.name for f in source.fields]
        assert told["source"] == {"path": str(source.path), "line": source.line}
        assert (told["doc"], told["target"]) == (source.doc, component.target)
        for found in source.fields:
            assert f"{found.name}\t{found.type}\t{found.default or 'required'}" in said.out
