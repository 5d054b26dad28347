"""ebmkit sample: units, names, conditions, what is written and what is refused."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ebmkit_datasets.array import Array

import ebmkit
from ebmkit.cli._points import to_write
from ebmkit.hooks import Hooks
from ebmkit.protocols import Batch

Command = Callable[..., Any]

MEANS, STDS = np.array([-300.0, 0.02]), np.array([25.0, 0.004])


def rows() -> np.ndarray:
    """Load, deflection and kind: columns of sizes far apart, three kinds."""
    chance = np.random.default_rng(0)
    x = MEANS + STDS * chance.normal(size=(600, 2))
    return np.column_stack([x, np.arange(600) % 3])


def trained_on(folder: Path, dataset: dict[str, Any], **tables: Any) -> Path:
    """A run of one training step."""
    spec: dict[str, Any] = {
        "model": {"use": "mlp", "hidden": [8], "base_scale": 3.0},
        "sampler": {"use": "langevin", "step_size": 0.05},
        "loss": {"use": "dsm", "sigma": 0.3},
        "dataset": {"use": "array", **dataset},
        "training": {"steps": 1, "batch_size": 64, "device": "cpu", "seed": 4},
        "evaluation": {"n_samples": 10, "chain_steps": 3},
    }
    ebmkit.compose({**spec, **tables}).fit(out=folder, hooks=Hooks({}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    header = "load_kN,deflection_mm,kind"
    np.savetxt(folder / "a.csv", rows(), delimiter=",", header=header, comments="", fmt="%.9g")
    np.save(folder / "a.npy", rows()[:, :2])
    return folder


@pytest.fixture(scope="module")
def standardised(folder: Path) -> Path:
    """The run of a model of p(x) on two columns, standardised."""
    columns = ["load_kN", "deflection_mm"]
    data = {"path": str(folder / "a.csv"), "columns": columns, "standardise": True}
    return trained_on(folder / "standardised", data)


@pytest.fixture(scope="module")
def conditional(folder: Path) -> Path:
    """The run of a conditional model on whitened rows with labels."""
    return trained_on(
        folder / "conditional",
        {"path": str(folder / "a.csv"), "label": "kind", "whiten": True},
        model={"use": "mlp", "hidden": [8], "base_scale": 3.0, "conditional": True},
    )


def table(path: Path) -> tuple[list[str], np.ndarray]:
    """A csv file's names and its numbers, in float64."""
    with path.open(newline="", encoding="utf-8") as file:
        names, *cells = csv.reader(file)
    return names, np.array(cells, dtype=float)


def test_an_array_of_the_right_shape_that_a_seed_reproduces(
    trained: Any, cli: Command, tmp_path: Path
) -> None:
    out, _ = trained
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.npy"
        said = cli("sample", out, "--count", 70, "--steps", 3, "--seed", seed, "--out", path)
        assert (said.code, said.out) == (0, f"{path}: (70, 2)\n")
    a, b, c = (np.load(tmp_path / f"{name}.npy", allow_pickle=False) for name in "abc")
    assert a.shape == (70, 2)
    assert a.dtype == np.float32
    assert np.isfinite(a).all()
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


class TestUnits:
    def test_chains_that_have_not_moved_have_the_mean_of_the_file(
        self, standardised: Path, cli: Command, tmp_path: Path
    ) -> None:
        """Chains start at normal noise with the data's mean and standard deviation, of 4,000 rows drawn
        from the file; so means differ by 5 standard errors of two in fewer than 1e-6 of seeds."""
        path, n = tmp_path / "x.csv", 4000
        said = cli("sample", standardised, "--count", n, "--steps", 0, "--out", path)
        assert (said.code, said.out) == (0, f"{path}: ({n}, 2)\n"), said.err
        names, found = table(path)
        assert names == ["load_kN", "deflection_mm"]
        x = rows()[:, :2]
        error = x.std(0) * math.sqrt(2 / n)
        assert (np.abs(found.mean(0) - x.mean(0)) < 5 * error).all()
        assert (np.abs(found.std(0) - x.std(0)) < 5 * error).all()

    @pytest.mark.parametrize("run", ["standardised", "conditional"])
    def test_they_are_the_pipelines_samples_restored(
        self, run: str, cli: Command, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        directory = request.getfixturevalue(run)
        pipeline = ebmkit.load(directory)
        expected = pipeline.sample(50)
        for name, option in (("file", []), ("model", ["--rescaled"])):
            for suffix in ("npy", "csv"):
                path = tmp_path / f"{name}.{suffix}"
                assert cli("sample", directory, "--count", 50, "--out", path, *option).code == 0
        restored = pipeline.dataset.restored(expected).numpy()
        assert np.array_equal(np.load(tmp_path / "file.npy"), restored)
        assert np.array_equal(np.load(tmp_path / "model.npy"), expected.numpy())
        # The text tells every float32 from its neighbours.
        for name, values in (("file", restored), ("model", expected.numpy())):
            found = table(tmp_path / f"{name}.csv")[1][:, :2]
            assert np.array_equal(found.astype(np.float32), values)
        assert np.abs(expected.numpy()).max() < 20 < np.abs(restored).max()

    def test_names_stand_over_the_files_units_alone(
        self, standardised: Path, folder: Path, cli: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.csv"
        words = ["--count", 2, "--steps", 1, "--out", path, "--rescaled"]
        assert cli("sample", standardised, *words).err == ""
        assert table(path)[0] == ["x0", "x1"]
        columns = {"path": str(folder / "a.csv"), "columns": ["deflection_mm"]}
        cli("sample", trained_on(tmp_path / "as-they-are", columns), *words)
        assert table(path)[0] == ["deflection_mm"]

    def test_data_without_other_units(self, trained: Any, cli: Command, tmp_path: Path) -> None:
        out, _ = trained
        for name, option in (("a", []), ("b", ["--rescaled"])):
            path = tmp_path / f"{name}.csv"
            said = cli("sample", out, "--count", 5, "--steps", 1, "--out", path, *option)
            assert said.code == 0
            assert ("--rescaled changes nothing: data set EightGaussians" in said.err) == bool(
                option
            )
        assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
        assert table(tmp_path / "a.csv")[0] == ["x0", "x1"]

    def test_categories_are_numbers_again(self, cli: Command, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 3, (90, 2))
        header = "eye,hair"
        np.savetxt(tmp_path / "a.csv", values, "%d", ",", header=header, comments="")
        run = trained_on(
            tmp_path / "run",
            {"path": str(tmp_path / "a.csv"), "discrete": True, "categories": 3},
            model={"use": "mlp", "hidden": [8]},
            sampler={"use": "gibbs-with-gradients", "categories": 3},
            loss={"use": "cd", "sampler": "@sampler", "k_steps": 1},
        )
        path = tmp_path / "x.csv"
        assert cli("sample", run, "--count", 40, "--out", path).code == 0
        assert path.read_text().splitlines()[0] == "eye,hair"
        assert set(path.read_text().replace(",", "\n").split()[2:]) == {"0", "1", "2"}
        assert cli("sample", run, "--count", 40, "--out", path, "--rescaled").code == 0
        names, found = table(path)
        assert names == [f"x{place}" for place in range(6)]
        assert (found.reshape(40, 2, 3).sum(2) == 1).all()


class TestNames:
    def test_a_file_without_names(self, folder: Path, cli: Command, tmp_path: Path) -> None:
        data = {"path": str(folder / "a.npy"), "standardise": True}
        run, path = trained_on(tmp_path / "run", data), tmp_path / "x.csv"
        assert cli("sample", run, "--count", 3, "--out", path).code == 0
        names, found = table(path)
        assert names == ["x0", "x1"]
        assert (np.abs(found - MEANS) < 10 * STDS).all()

    def test_events_of_two_dimensions_are_flattened(self, cli: Command, tmp_path: Path) -> None:
        run = trained_on(
            tmp_path / "run", {"use": "digits"}, model={"use": "conv", "channels": [4]}
        )
        path = tmp_path / "x.CSV"
        said = cli("sample", run, "--count", 3, "--steps", 1, "--out", path)
        assert said.out == f"{path}: (3, 64)\n"
        names, found = table(path)
        assert names == [f"x{place}" for place in range(64)]
        expected = ebmkit.load(run).sample(3, steps=1)
        assert np.array_equal(found.astype(np.float32), expected.flatten(1).numpy())

    def test_the_table_can_be_trained_on(
        self, conditional: Path, cli: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.csv"
        said = cli("sample", conditional, "--count", 60, "--out", path)
        assert said.out == f"{path}: (60, 3)\n"
        read = Array(str(path), label="kind")
        drawn = ebmkit.load(conditional).sample_batch(60)
        assert read.event_names == ("load_kN", "deflection_mm")
        assert torch.equal(read[:].condition, drawn.condition)
        assert torch.equal(read[:].x, ebmkit.load(conditional).dataset.restored(drawn.x))

    @pytest.mark.parametrize("given", [("a",), ("a", "b", "c")])
    def test_a_data_set_that_names_too_few_or_too_many(self, given: tuple[str, ...]) -> None:
        dataset: Any = SimpleNamespace(event_names=given)
        with pytest.raises(ebmkit.PluginError) as caught:
            to_write(dataset, Batch(torch.zeros(4, 2)), rescaled=False)
        assert str(caught.value) == (
            "event_names of SimpleNamespace (module types): expected a name for each of the 2 numbers "
            f"of an event, got {len(given)}; mend or update the plugin"
        )


class TestCondition:
    def test_every_point_is_drawn_at_it(
        self, conditional: Path, cli: Command, tmp_path: Path
    ) -> None:
        pipeline = ebmkit.load(conditional)
        drawn = {}
        for label in (0, 2):
            path = tmp_path / f"{label}.csv"
            said = cli("sample", conditional, "--count", 20, "--condition", label, "--out", path)
            assert said.code == 0, said.err
            names, found = table(path)
            assert names == ["load_kN", "deflection_mm", "kind"]
            assert found[:, 2].tolist() == [label] * 20
            expected = pipeline.sample(20, condition=torch.full((20,), label))
            drawn[label] = found[:, :2].astype(np.float32)
            assert np.array_equal(drawn[label], pipeline.dataset.restored(expected).numpy())
        assert not np.array_equal(drawn[0], drawn[2])

    def test_labels_of_the_data_without_it(
        self, conditional: Path, cli: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.csv"
        cli("sample", conditional, "--count", 60, "--steps", 0, "--out", path)
        assert set(table(path)[1][:, 2]) == {0.0, 1.0, 2.0}

    def test_a_condition_without_a_name(self, cli: Command, tmp_path: Path) -> None:
        model = {"use": "conv", "channels": [4], "conditional": True}
        run, path = trained_on(tmp_path / "run", {"use": "digits"}, model=model), tmp_path / "x.csv"
        said = cli("sample", run, "--count", 3, "--steps", 1, "--condition", 7, "--out", path)
        assert said.out == f"{path}: (3, 65)\n"
        names, found = table(path)
        assert (names[0], names[-1], found[:, -1].tolist()) == ("x0", "condition", [7.0] * 3)

    @pytest.mark.parametrize("said", ["3", "-1", "1.0", "first", "9" * 5000, ""])
    def test_a_class_that_is_unknown(
        self, said: str, conditional: Path, cli: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.csv"
        result = cli("sample", conditional, "--count", 1, f"--condition={said}", "--out", path)
        assert result.code == 2
        assert len(result.errors) == 1
        start, end = result.errors[0].split(repr(said)[:100])[0], result.errors[0].split("; ")[-1]
        assert start.startswith(
            "--condition: expected a class label of the run's data, a whole number from 0 to 2, got "
        )
        assert end == ("state one of these, or leave --condition out to draw at labels of the data")
        assert not path.exists()

    def test_a_run_that_is_not_conditional(
        self, standardised: Path, cli: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "x.csv"
        said = cli("sample", standardised, "--count", 1, "--condition", 0, "--out", path)
        assert said.code == 2
        assert said.errors == [
            f"--condition: expected the run of a conditional model, got {standardised}, whose model is "
            "of p(x); leave --condition out, or train one with model.conditional = true on data with "
            "labels"
        ]
        assert not path.exists()


def test_an_interrupt_leaves_points_with_their_conditions(
    conditional: Path, cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = []

    @contextlib.contextmanager
    def interrupting(_: str) -> Iterator[Callable[[int, int], None]]:
        def told(done: int, total: int) -> None:
            if done > 0:
                reached.append(done)
                raise KeyboardInterrupt

        yield told

    monkeypatch.setattr("ebmkit.cli.sample.progress_bar", interrupting)
    path = tmp_path / "x.csv"
    said = cli("sample", conditional, "--count", 30, "--steps", 500, "--out", path)
    assert said.code == 130
    (steps,) = reached
    assert 0 < steps < 500
    assert f"note: interrupted after {steps} steps; the points are those of then" in said.err
    pipeline = ebmkit.load(conditional)
    expected = pipeline.sample_batch(30, steps=steps)
    names, found = table(path)
    assert names == ["load_kN", "deflection_mm", "kind"]
    assert found[:, 2].tolist() == expected.condition.tolist()
    restored = pipeline.dataset.restored(expected.x).numpy()
    assert np.array_equal(found[:, :2].astype(np.float32), restored)


class TestRefusals:
    @pytest.mark.parametrize("name", ["x.txt", "x.npz", "x"])
    def test_another_suffix(self, name: str, cli: Command, tmp_path: Path) -> None:
        path = tmp_path / name
        said = cli("sample", tmp_path / "no-run", "--count", 1, "--out", path)
        assert said.code == 2
        assert (
            f"Invalid value for --out: {path}: expected a file that ends in .npy or .csv, got "
            f"'{path.suffix}'; name it so"
        ) in said.err
        assert not path.exists()

    @pytest.mark.parametrize("suffix", ["npy", "csv"])
    def test_a_folder_that_is_not_there(
        self, suffix: str, trained: Any, cli: Command, tmp_path: Path
    ) -> None:
        path = tmp_path / "no" / f"x.{suffix}"
        said = cli("sample", trained[0], "--count", 1, "--steps", 1, "--out", path)
        assert said.code == 2
        assert str(path) in said.err

    def test_what_is_no_run(self, cli: Command, tmp_path: Path) -> None:
        said = cli("sample", tmp_path, "--count", 1, "--out", tmp_path / "x.npy")
        assert said.code == 2
        assert "holds no run" in said.errors[0]
