"""`ebmkit new-plugin`: what it writes works, and what it refuses it says how to mend."""

from __future__ import annotations

import math
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch

import ebmkit
from ebmkit.registry import GROUPS
from ebmkit.scaffold import LICENCES, SUMMARIES, Scaffold

SETTINGS = {
    "training.steps": 3,
    "training.batch_size": 32,
    "evaluation.n_samples": 50,
    "evaluation.chain_steps": 2,
}
WORDS = [word for path, value in SETTINGS.items() for word in ("--set", f"{path}={value}")]


@pytest.fixture
def made(
    tmp_path: Path, install: Any, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Writes the package `ebmkit-fresh-KIND` by the command, and puts it where an installer would."""

    def make(kind: str) -> Path:
        monkeypatch.chdir(tmp_path)
        said = cli("new-plugin", f"ebmkit-fresh-{kind}", "--kind", kind)
        assert said.code == 0, said.err
        folder = tmp_path / f"ebmkit-fresh-{kind}"
        shutil.copytree(folder / "src", install.folder, dirs_exist_ok=True)
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        install(
            project["name"],
            project["entry-points"],
            version=project["version"],
            requires=project["dependencies"],
        )
        return folder

    return make


@pytest.fixture(params=SUMMARIES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_is_a_template_of_every_kind() -> None:
    assert set(SUMMARIES) == set(GROUPS) - {"recipe"}


def test_it_is_listed_described_and_trained(
    kind: str, made: Callable[[str], Path], cli: Callable[..., Any]
) -> None:
    folder = made(kind)
    listed = cli("list-plugins", "--kind", kind).out
    assert re.search(rf"^{kind}\tfresh-{kind}\tebmkit-fresh-{kind}\t0\.1\.0\tok\t", listed, re.M)
    described = cli("describe", kind, f"fresh-{kind}")
    assert described.code == 0, described.err
    assert f"of ebmkit-fresh-{kind} 0.1.0" in described.out
    assert f"ebmkit_fresh_{kind}" not in sys.modules
    pipeline = ebmkit.compose(folder / "pipeline.toml", **SETTINGS, **{"training.device": "cpu"})
    metrics = [pipeline.train_step() for _ in range(3)]
    assert all(value.isfinite() for metric in metrics for value in metric.values())
    assert pipeline.tables["parts"][f"{kind}:fresh-{kind}"] == f"ebmkit-fresh-{kind}==0.1.0"


def test_the_test_it_comes_with_has_three_lines(kind: str, made: Callable[[str], Path]) -> None:
    [path] = (made(kind) / "tests").iterdir()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line] == [
        "import ebmkit.testing",
        f"from ebmkit_fresh_{kind} import Fresh{kind.capitalize()}",
        f'test_it = ebmkit.testing.suite("{kind}", Fresh{kind.capitalize()})',
    ]


def test_files_hold_what_was_said(tmp_path: Path, cli: Callable[..., Any]) -> None:
    place = tmp_path / "deep" / "er"
    said = cli(
        *("new-plugin", "My.Sampler", "--kind", "sampler", "--directory", place),
        *("--author", 'Ann "A." Ö\\', "--email", "ann@example.org", "--license", "bsd-3-clause"),
        *("--description", 'Costs $5, "more" or less.'),
    )
    assert said.code == 0, said.err
    project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "My.Sampler"
    assert project["authors"] == [{"name": 'Ann "A." Ö\\', "email": "ann@example.org"}]
    assert project["description"] == 'Costs $5, "more" or less.'
    assert project["license"] == "BSD-3-Clause"
    assert project["entry-points"] == {"ebmkit.samplers": {"my-sampler": "my_sampler:MySampler"}}
    assert 'Ann "A." Ö\\' in (place / "LICENSE").read_text(encoding="utf-8")
    there = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}
    assert there == {
        *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore", "pipeline.toml"),
        *(".github/workflows/tests.yml", "src/my_sampler/__init__.py", "src/my_sampler/py.typed"),
        "tests/test_my_sampler.py",
    }
    assert project["keywords"] == [f"ebmkit-protocol~={ebmkit.PROTOCOL}"]
    assert f"{place}: {len(there)} files" in said.out


@pytest.mark.parametrize("licence", LICENCES)
def test_licences(licence: str) -> None:
    files = Scaffold("ebmkit-fresh", "hook", author="Ann", licence=licence).files()
    project = tomllib.loads(files["pyproject.toml"])["project"]
    if licence == "none":
        assert "LICENSE" not in files
        assert not {"license", "license-files"} & set(project)
        assert "No licence is stated" in files["README.md"]
        return
    assert project["license"] == licence
    assert project["license-files"] == ["LICENSE"]
    assert "$" not in files["LICENSE"]
    assert ("Ann" in files["LICENSE"]) == (licence != "Apache-2.0")


@pytest.mark.parametrize(
    ("name", "kind", "package", "component", "class_name"),
    [
        ("ebmkit-random-walk", "sampler", "ebmkit_random_walk", "random-walk", "RandomWalk"),
        ("EBMKit_Random.walk", "sampler", "ebmkit_random_walk", "random-walk", "RandomWalk"),
        ("mine", "loss", "mine", "mine", "Mine"),
        ("ebmkit-3d", "model", "ebmkit_3d", "3d", "Model3d"),
        # Names that the language or the template has another use for.
        ("ebmkit-none", "hook", "ebmkit_none", "none", "NoneHook"),
        ("ebmkit-noise", "sampler", "ebmkit_noise", "noise", "NoiseSampler"),
        ("ebmkit-noise", "hook", "ebmkit_noise", "noise", "Noise"),
        ("ebmkit-tensor", "dataset", "ebmkit_tensor", "tensor", "TensorDataset"),
    ],
)
def test_names(name: str, kind: str, package: str, component: str, class_name: str) -> None:
    made = Scaffold(name, kind)
    assert (made.package, made.component, made.class_name) == (package, component, class_name)
    source = made.files()[f"src/{package}/__init__.py"]
    names: dict[str, Any] = {"__name__": "written"}
    exec(compile(source, "written", "exec", dont_inherit=True), names)
    assert names[class_name].__module__ == "written"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("my sampler!", "sampler", r"is no name of a distribution.*did you mean 'my-sampler'"),
        ("Énergie_", "model", r"is no name of a distribution.*did you mean 'energie'"),
        ("日本", "model", r"is no name of a distribution[^?]*$"),
        ("lambda", "hook", r"a word of Python's own; did you mean 'ebmkit-lambda'"),
        ("random", "sampler", r"a module of Python's own; did you mean 'ebmkit-random'"),
        ("3d", "model", r"'3d', which is none that Python imports; did you mean 'ebmkit-3d'"),
        ("langevin", "sampler", r"offered by ebmkit-core .*as 'langevin-sampler'"),
        ("ebmkit-rings", "dataset", r"offered by ebmkit-core .*as 'ebmkit-rings-dataset'"),
        ("ebmkit-core", "hook", r"'ebmkit-core' \(.*\) is installed already"),
        ("ebmkit", "hook", r"a module of that name already"),
        ("ebmkit-gibbs", "model", r"'ebmkit_gibbs', and there is a module of that name already"),
    ],
)
def test_names_that_are_refused(
    name: str, kind: str, message: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    place = tmp_path / "place"
    said = cli("new-plugin", name, "--kind", kind, "--directory", place)
    assert said.code == 2
    assert re.search(message, said.err), said.err
    assert not place.exists()


def test_a_name_of_an_installed_plugin_is_refused(
    tmp_path: Path, install: Any, cli: Callable[..., Any]
) -> None:
    parts = {"walk": "other:Walk", "walk-sampler": "other:Walk"}
    install("other", {"ebmkit.samplers": parts}, {"other.py": "class Walk: ..."})
    said = cli("new-plugin", "ebmkit-walk", "--kind", "sampler", "--directory", tmp_path / "a")
    assert said.code == 2
    assert "'walk' is offered by other 1.0 already" in said.err
    assert "'ebmkit-walk-2'" in said.err
    # For another kind the name is free.
    said = cli("new-plugin", "ebmkit-walk", "--kind", "hook", "--directory", tmp_path / "b")
    assert said.code == 0, said.err


def test_what_was_written_and_installed_is_not_written_again(
    made: Callable[[str], Path], cli: Callable[..., Any]
) -> None:
    made("hook")
    said = cli("new-plugin", "ebmkit-fresh-hook", "--kind", "hook")
    assert said.code == 2
    assert "a distribution 'ebmkit-fresh-hook' (0.1.0) is installed already" in said.err


@pytest.mark.parametrize("there", ["a file", "an empty folder", "a link to nowhere"])
def test_nothing_is_overwritten(there: str, tmp_path: Path, cli: Callable[..., Any]) -> None:
    place = tmp_path / "place"
    if there == "a file":
        place.write_text("mine")
    elif there == "an empty folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "nowhere")
    said = cli("new-plugin", "ebmkit-fresh", "--kind", "hook", "--directory", place)
    assert said.code == 2
    assert "is there already, and nothing is overwritten" in said.err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "site") == ["place"]
    assert not place.is_file() or place.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "place"
    said = cli("new-plugin", "ebmkit-fresh", "--kind", "hook", "--directory", place)
    assert said.code == 2
    assert "cannot be made: Not a directory" in said.err


def test_half_a_package_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    write = Path.write_text

    def full(self: Path, *args: Any, **kwargs: Any) -> int:
        if self.name == "py.typed":
            raise OSError(28, "No space left on device")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    place = tmp_path / "place"
    said = cli("new-plugin", "ebmkit-fresh", "--kind", "hook", "--directory", place)
    assert said.code == 2
    assert "cannot be written: No space left on device" in said.err
    assert not place.exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--author", "two\nlines", "--author: expected one line of text"),
        ("--description", "a\x7fb", "--description: expected one line of text"),
        ("--email", "nobody", "--email: expected an address"),
    ],
)
def test_what_metadata_cannot_hold_is_refused(
    option: str, value: str, message: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    place = tmp_path / "place"
    said = cli("new-plugin", "ebmkit-x", "--kind", "hook", "--directory", place, option, value)
    assert said.code == 2
    assert message in said.err
    assert not place.exists()


def test_the_kind_is_asked_for_on_a_terminal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    def terminal(is_one: bool) -> Any:
        return type("Input", (), {"isatty": lambda self: is_one})()

    words = ("new-plugin", "ebmkit-fresh", "--directory", tmp_path / "place")
    monkeypatch.setattr(sys, "stdin", terminal(False))
    said = cli(*words)
    assert said.code == 2
    assert "state --kind: one of sampler, loss, model, scheduler, dataset, hook" in said.err
    asked = []
    monkeypatch.setattr(click, "prompt", lambda text, **_: asked.append(text) or "hook")
    monkeypatch.setattr(sys, "stdin", terminal(True))
    assert cli(*words).code == 0
    assert asked == ["kind"]
    assert (tmp_path / "place" / "src" / "ebmkit_fresh").is_dir()


# Each template's own answer, which the laws of its kind cannot know.


def test_the_sampler_has_the_variance_of_a_gaussian(made: Callable[[str], Path]) -> None:
    made("sampler")
    sampler = ebmkit.create("sampler", "fresh-sampler", scale=2.0)
    energy = ebmkit.create("model", "gaussian", mean=[0.0], covariance=[[4.0]])
    generator = torch.Generator().manual_seed(0)
    x = ebmkit.sample(sampler, energy, torch.zeros(4000, 1), steps=100, generator=generator)
    # The variance of 4,000 draws of N(0, 4) has a standard deviation of 0.09: 6 of them are left.
    assert abs(x.var().item() - 4.0) < 0.54


def test_the_loss_is_least_at_the_truth(made: Callable[[str], Path]) -> None:
    """Its gradient in the precision of a Gaussian is 0 at that of the data, and only there."""
    made("loss")
    loss = ebmkit.create("loss", "fresh-loss", noise=1.0)
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    batch = ebmkit.Batch(x)
    slopes = []
    for factor in (0.7, 1.0, 1.4):
        precision = torch.tensor(factor / 4, dtype=torch.float64, requires_grad=True)

        def energy(x: torch.Tensor, precision: torch.Tensor = precision) -> torch.Tensor:
            return precision * x.square().sum(1) / 2

        draws, _ = loss.draw(energy, batch, (), 0, generator=generator)
        value, _ = loss(energy, batch, draws)
        value.backward()
        slopes.append(float(precision.grad))
    # A row's slope is at most |y² − x²| / 2, whose mean square is (16 + 3) / 4; the mean over all rows
    # has a standard deviation below 0.005, of which 6 are left.
    assert slopes[0] < -0.03
    assert abs(slopes[1]) < 0.03
    assert slopes[2] > 0.03


def test_the_model_is_its_formula(made: Callable[[str], Path]) -> None:
    made("model")
    model = ebmkit.create("model", "fresh-model", event_shape=(2,), quartic=0.5)
    with torch.no_grad():
        model.quadratic.copy_(torch.tensor([[1.0, 2.0], [0.0, -3.0]]))
        model.linear.copy_(torch.tensor([0.5, -1.0]))
    # ¼ · ½ (1 + 16) + ½ (1 + 2 · 1 · (−2) − 3 · 4) + 0.5 + 2 at x = (1, −2).
    expected = 17 / 8 + (1 - 4 - 12) / 2 + 0.5 + 2
    assert model(torch.tensor([[1.0, -2.0]])).item() == pytest.approx(expected)


def test_the_schedule_halves(made: Callable[[str], Path]) -> None:
    made("scheduler")
    schedule = ebmkit.create(
        "scheduler", "fresh-scheduler", start_value=9.0, end_value=1.0, half_life=10.0
    )
    assert [schedule(step) for step in (0, 10, 20, 30)] == [9.0, 5.0, 3.0, 2.0]
    assert schedule(10**9) == 1.0


def test_the_density_is_that_of_the_draws(made: Callable[[str], Path]) -> None:
    made("dataset")
    dataset = ebmkit.create("dataset", "fresh-dataset", bend=1.0, noise=0.5)
    grid = torch.linspace(-9, 30, 1200, dtype=torch.float64)
    x = torch.cartesian_prod(grid[grid < 9], grid)
    density = dataset.log_density(x).exp()
    area = (grid[1] - grid[0]).item() ** 2
    assert area * density.sum().item() == pytest.approx(1, abs=1e-6)
    points = dataset.draw(100_000, generator=torch.Generator().manual_seed(0)).x
    # The entropy of two normal numbers, of deviations 1 and σ; −log p has a variance of 1.
    entropy = math.log(2 * math.pi * math.e * 0.5)
    assert abs(-dataset.log_density(points).mean().item() - entropy) < 6 / 100_000**0.5


def test_the_hook_says_how_fast_it_was(
    made: Callable[[str], Path], cli: Callable[..., Any]
) -> None:
    folder = made("hook")
    run = folder / "run"
    said = cli("train", folder / "pipeline.toml", "--device", "cpu", "--out", run, *WORDS)
    line = (run / "speed.txt").read_text(encoding="utf-8").strip()
    assert re.fullmatch(r"3 steps in \S+ minutes, \S+ a minute", line)
    assert line in said.err
