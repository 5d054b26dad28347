"""The pages are complete: commands, options, hooks, keys, rooms and public names are all there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import click
import pytest

import ebmkit
from ebmkit import errors
from ebmkit.cli import COMMANDS
from ebmkit.cli import ebmkit as command_line
from ebmkit.hooks import Specifications
from ebmkit.registry import GROUPS, KINDS
from ebmkit.sections import Chains, Evaluation, Training
from ebmkit.spec import PARTS, SECTIONS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name: str, pages: dict[str, Any]) -> None:
    text = pages["command-line.md"].text
    section = re.search(rf"^## ebmkit {name}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, name
    command = command_line.get_command(click.Context(command_line), name)
    assert command is not None
    options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    assert "--no-plugin" in text
    documented = set(re.findall(r"(?<!\w)--[a-z][a-z-]*", section[1]))
    assert documented == {o for o in options if o.startswith("--")} - {"--no-plugin"}


def test_every_hook_is_documented(pages: dict[str, Any]) -> None:
    hooks = {name for name in vars(Specifications) if not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)\(", pages["house.md"].text, re.MULTILINE)) == hooks


def test_every_group_and_kind_is_documented(pages: dict[str, Any]) -> None:
    for group in GROUPS.values():
        assert f"`{group}`" in pages["house.md"].text
        assert f"`{group}`" in pages["plugins.md"].text
    for kind in KINDS:
        assert re.search(rf"\b{kind}\b", pages["command-line.md"].text)


def test_rooms_are_those_of_the_tree(root: Path, pages: dict[str, Any]) -> None:
    table = re.search(r"## Rooms\n(.*?)\n## ", pages["house.md"].text, re.DOTALL)
    assert table
    told = set(re.findall(r"`(?:ebmkit/|plugins/)?(\w+(?:\.py|/))`", table[1]))
    kernel = {p.name for p in (root / "ebmkit").glob("*.py") if not p.name.startswith("_")}
    rooms = {f"{p.parent.name}/" for p in (root / "ebmkit").glob("*/__init__.py")}
    plugins = {f"{p.parent.name}/" for p in (root / "plugins").glob("*/__init__.py")}
    assert told == kernel | rooms | plugins


@pytest.mark.parametrize("section", [Training, Chains, Evaluation])
def test_every_key_and_its_default_are_documented(section: Any, pages: dict[str, Any]) -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (.*?) \| ", pages["pipeline-file.md"].text, re.MULTILINE)
    )
    for attribute in attrs.fields(section):
        default = attribute.default
        # Of `steps` the default depends on `epochs`; the optimizer's is a table.
        if attribute.name in ("steps", "optimizer"):
            assert attribute.name in rows
            continue
        if isinstance(default, str):
            said = f'`"{default}"`'
        elif isinstance(default, bool):
            said = str(default).lower()
        else:
            said = "none" if default is None else f"{default:g}"
        assert rows[attribute.name] == said, attribute.name


def test_every_table_of_a_pipeline_is_documented(pages: dict[str, Any]) -> None:
    for section in SECTIONS:
        assert f"[{section}]" in pages["pipeline-file.md"].text
    for part in PARTS:
        assert f'`"@{part}"`' in pages["pipeline-file.md"].text


def test_every_public_name_is_documented(pages: dict[str, Any]) -> None:
    text = pages["python.md"].text
    told = set(re.findall(r"`(\w+)(?:\([^`]*\))?`", text))
    assert set(ebmkit.__all__) <= told
    rows = re.findall(r"^\| (`.*?) \| ", text, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)(?:\([^`]*\))?`", row)}
    assert named <= set(ebmkit.__all__)
    headings = re.findall(r"^### (\w+)$", pages["api.md"].text, re.MULTILINE)
    assert sorted(headings) == sorted(ebmkit.__all__)


def test_exit_codes_are_documented(pages: dict[str, Any]) -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    used = {c.exit_code for c in classes if issubclass(c, errors.EbmkitError)}
    codes = set(map(int, re.findall(r"^\| (\d+) \|", pages["house.md"].text, re.MULTILINE)))
    assert codes == used | {0, 130, errors.Terminated.exit_code}


def test_every_error_and_warning_is_documented(root: Path, pages: dict[str, Any]) -> None:
    text = pages["errors.md"].text
    sources = [*(root / "ebmkit").rglob("*.py"), *(root / "plugins").rglob("*.py")]
    told = set()
    for path in sources:
        if path.is_relative_to(root / "ebmkit" / "testing"):
            continue
        for name, bases in re.findall(
            r"^class (\w+)\((.*?)\):$", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            if name.startswith("_") or not re.search(r"(Error|Warning)\b", bases):
                continue
            told.add(name)
    # A reader meets none of these: they are caught where they are raised for.
    told -= {"Unsuitable", "NoRuleError", "RandomError"}
    assert {"SpecError", "NoiseError", "CalculusWarning", "SlowImportWarning"} <= told
    for name in told:
        assert re.search(rf"^### {name}$|\.{name}`", text, re.MULTILINE), name


def test_signs_and_words_are_in_the_glossary(pages: dict[str, Any]) -> None:
    said = re.search(r"## Signs and words\n\n(.*?)\n\n", pages["house.md"].text, re.DOTALL)
    listed = re.search(r":::\{glossary\}\n(.*?)^:::$", pages["glossary.md"].text, re.S | re.M)
    assert said and listed
    terms = set(re.findall(r"^(\S.*)$", listed[1], re.MULTILINE))
    for item in " ".join(said[1].split()).split(" · "):
        assert any(term in item.replace("_", " ") for term in terms), item
    assert {"positives", "negatives", "slot", "training clock", "chain clock"} <= terms
