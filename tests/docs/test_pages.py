"""What stands on every page is true: links lead somewhere, examples run, pipelines compose."""

from __future__ import annotations

import re
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ebmkit

LANGUAGES = {
    *("{code-cell}", "python", "sh", "console", "toml", "text", "json"),
    *("{include}", "{literalinclude}", "{toctree}", "{glossary}", "{figure}", "{image}"),
}


def test_links_lead_somewhere(page: Any) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", page.text):
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{page.path.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor[1:] in {_slug(h) for h in headings}, f"{target}{anchor}"


def test_python_blocks_run(
    page_with_examples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    # Type annotations of classes are resolved in their module.
    monkeypatch.setitem(sys.modules, "page", module)
    for block in page_with_examples.examples():
        # Lines are those of the page, so that a failure points into it.
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, str(page_with_examples.path), "exec"), module.__dict__)


def test_every_block_is_run_or_says_why_not(page: Any, root: Path) -> None:
    """What a page shows as Python or as commands is run: by the build of the site, by the tests of the
    pages, or by a test that it names."""
    for block in page.all_blocks():
        place = f"{page.path.name}:{block.line}"
        assert block.language in LANGUAGES, f"{place}: {block.language}"
        if block.language == "{code-cell}":
            assert page.text.startswith("---\nfile_format: mystnb\n"), f"{place} is not executed"
        if block.mark is not None:
            kind, _, said = block.mark.partition(": ")
            test = re.fullmatch(r"run by (\S+)", block.mark)
            assert (root / test[1]).is_file() if test else kind == "not run" and said, place
        elif block.language == "console":
            raise AssertionError(f"{place}: no test runs this; say which does, or why none")
        elif block.language == "sh":
            others = [x for x in block.text.splitlines() if not x.startswith("ebmkit ")]
            assert not others, f"{place}: the tests run lines of ebmkit alone, not {others}"


def test_toml_blocks_are_pipelines(
    page: Any, pages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block composes, alone or in place of the tables of the first pipeline of the page on
    the pipeline file."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(300, 2))
    Path("measurements.csv").write_text("x,y\n" + "".join(f"{a},{b}\n" for a, b in rows))
    np.save("answers.npy", np.random.default_rng(1).integers(0, 4, (300, 5)))
    whole = tomllib.loads(pages["pipeline-file.md"].blocks("toml")[0].text)
    for block in page.blocks("toml"):
        tables = tomllib.loads(block.text)
        if (block.name or "").endswith("/pipeline.toml"):
            # Of a package, and tried together with it.
            continue
        if "project" in tables:
            required = [re.split(r"[<>=]", d)[0] for d in tables["project"]["dependencies"]]
            assert "ebmkit-core" in required and "ebmkit" not in required
            assert set(tables["project"]["entry-points"]) <= _groups()
            continue
        assert ebmkit.compose({**whole, **tables}).step == 0


def test_no_page_names_a_path_of_a_machine(page: Any) -> None:
    assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp|Users)/", page.text)


def _groups() -> set[str]:
    from ebmkit.registry import GROUPS

    return set(GROUPS.values())


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
