"""The package that the page on plugins publishes works as the page says."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ebmkit
from ebmkit.__main__ import run
from ebmkit.registry import registry

MODULE = "ebmkit_random_walk"


@pytest.fixture
def installed(
    pages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The page's files, where an installer would put them."""
    page = pages["plugins.md"]
    for language in ("toml", "python"):
        for block in page.blocks(language):
            if block.name:
                (tmp_path / block.name).write_text(block.text, encoding="utf-8")
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    record = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir()
    lines = ["Metadata-Version: 2.3", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in project["dependencies"]]
    (record / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{key} = {target}\n" for key, target in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (record / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    registry.cache_clear()
    importlib.invalidate_caches()
    yield tmp_path
    registry.cache_clear()
    sys.modules.pop(MODULE, None)


def test_it_is_found_and_described(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    component = registry().find("sampler", "random-walk")
    assert (component.status, component.distribution) == ("ok", "ebmkit-random-walk")
    sys.modules.pop(MODULE, None)
    assert run(["list-plugins", "--kind", "sampler"]) == 0
    assert run(["describe", "sampler", "ebmkit-random-walk:random-walk"]) == 0
    said = capsys.readouterr().out
    assert "Random-walk Metropolis: a normal proposal" in said
    assert re.search(r"^scale\s.*0\.1.*> 0.*standard deviation", said, re.MULTILINE)
    assert MODULE not in sys.modules
    assert (installed / f"{MODULE}.py").is_file()


@pytest.mark.usefixtures("installed")
def test_a_pipeline_trains_with_it() -> None:
    spec = {
        "model": {"use": "mlp", "hidden": [8], "base_scale": 3.0},
        "sampler": {"use": "random-walk", "scale": {"use": "constant", "value": 0.2}},
        "loss": {"use": "pcd", "k_steps": 2, "buffer_size": 64},
        "dataset": torch.randn(200, 2, generator=torch.Generator().manual_seed(0)),
        "training": {"steps": 3, "batch_size": 32},
    }
    pipeline = ebmkit.compose(spec)
    metrics = [pipeline.train_step() for _ in range(3)]
    assert all(0 < m["acceptance_rate"] <= 1 for m in metrics)
    assert pipeline.tables["parts"]["sampler:random-walk"] == "ebmkit-random-walk==0.1.0"
    with pytest.raises(ebmkit.SpecError, match=r"sampler\.scale"):
        ebmkit.compose(spec, **{"sampler.scale": -1.0})


def test_its_own_test_passes(installed: Path) -> None:
    source = (installed / "test_random_walk.py").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(compile(source, "test_random_walk.py", "exec"), names)
    names["test_variance_on_a_gaussian"]()
