"""Every `ebmkit` line of the shell blocks parses and runs, page by page, in the pages' order."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from ebmkit.__main__ import run
from ebmkit.cli import ebmkit

# A run of a few steps, on points whose density is not known: quadrature would take longer than all
# the rest.
SMALL = (
    "training.steps=2",
    "training.batch_size=32",
    "evaluation.n_samples=20",
    "evaluation.chain_steps=2",
    "dataset.use=array",
    "dataset.path=points.npy",
)


def test_shell_lines_run(
    page_with_commands: Any,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = page_with_commands
    commands = [shlex.split(line)[1:] for line in page.commands()]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(root / "examples")
    np.save("points.npy", np.random.default_rng(0).normal(size=(200, 2)))
    if "save it as `mine.toml`" in page.text:
        Path("mine.toml").write_text(page.blocks("toml")[0].text, encoding="utf-8")
    for words in commands:
        _parses(words)
        if words[0] == "train":
            words = [*words, *(word for path in SMALL for word in ("--set", path))]
        if words[0] == "resume":
            words = [*words[:2], "--steps", "4"]
        # doctor judges the environment that the tests run in, which may have problems.
        expected = (0, 1) if words[0] == "doctor" else (0,)
        code = run(words)
        said = capsys.readouterr()
        assert code in expected, f"{page.path.name}: ebmkit {shlex.join(words)}\n{said.err}"


def test_console_lines_parse(page: Any) -> None:
    for block in page.blocks("console"):
        for line in block.text.splitlines():
            prompt, command, *words = shlex.split(line)
            assert prompt == "$", line
            assert command in ("ebmkit", "pip", "python"), line
            if command == "ebmkit":
                _parses(words)


def _parses(words: list[str]) -> None:
    command = ebmkit.get_command(click.Context(ebmkit), words[0])
    assert command is not None, words
    command.make_context(words[0], words[1:])
