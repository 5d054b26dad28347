"""What bad input gets: exit code 2 and one message a problem, with its place and its remedy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit import Batch, SpecError, memory
from ebmkit.registry import HOME
from ebmkit.spec import to_toml


@pytest.fixture
def refused(small: dict[str, Any]) -> Callable[..., list[str]]:
    """The problems of the small pipeline with overrides, as `path: message`."""

    def call(base: dict[str, Any] | None = None, /, **overrides: Any) -> list[str]:
        spec = copy.deepcopy(small) if base is None else base
        named = {key.replace("__", "."): value for key, value in overrides.items()}
        with pytest.raises(SpecError) as caught:
            ebmkit.compose(spec, **named)
        assert caught.value.exit_code == 2
        return [problem.render() for problem in caught.value.problems]

    return call


TABLE: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "unknown part": (
        {"sampler__use": "langevn"},
        "sampler.use",
        (
            "no sampler is called 'langevn'",
            "did you mean 'langevin'?",
            "known: adaptive, annealed-langevin, gibbs",
        ),
    ),
    "unknown distribution": (
        {"sampler__use": "ebmkit-hmc:hmc"},
        "sampler.use",
        ("no plugin distribution of that name is installed", "pip install ebmkit-hmc"),
    ),
    "a part of another kind": (
        {"sampler__use": "mlp"},
        "sampler.use",
        ("no sampler is called 'mlp'", "is the name of a model"),
    ),
    "unknown key": (
        {"sampler__step_sise": 0.1},
        "sampler.step_sise",
        ("no such key; did you mean 'step_size'?", "known: step_size, noise_scale"),
    ),
    "unknown key of the training": (
        {"training__stepps": 1},
        "training.stepps",
        ("did you mean 'steps'?",),
    ),
    "unknown table": (
        {"modell": {"use": "mlp"}},
        "modell",
        ("no such table; did you mean 'model'?",),
    ),
    "wrong type": (
        {"loss__k_steps": "ten"},
        "loss.k_steps",
        ("expected a whole number, got 'ten' (str)",),
    ),
    "a fraction for a whole number": (
        {"loss__k_steps": 3.9},
        "loss.k_steps",
        ("expected a whole number, got 3.9",),
    ),
    "wrong type inside a list": (
        {"model__hidden": [8, "x"]},
        "model.hidden[1]",
        ("expected a whole number, got 'x'",),
    ),
    "a number for a table": ({"training": 3}, "training", ("expected a table, got 3",)),
    "a number for a part": ({"model": 3}, "model", ("expected a model", "got 3")),
    "a table without use": ({"model": {}}, "", ()),
    "out of range": ({"training__ema_decay": 1.5}, "training.ema_decay", ("must be < 1",)),
    "negative step size": ({"sampler__step_size": -0.1}, "sampler.step_size", ("must be > 0",)),
    "not a number": ({"sampler__step_size": float("nan")}, "sampler.step_size", ("finite number",)),
    "n_steps = 0": (
        {"sampler__step_size": {"use": "linear", "start_value": 1, "end_value": 2, "n_steps": 0}},
        "sampler.step_size.n_steps",
        ("must be >= 1",),
    ),
    "a schedule out of range": (
        {"sampler__step_size": {"use": "linear", "start_value": 1, "end_value": -2}},
        "sampler.step_size",
        ("out of range", "step"),
    ),
    "a chain's schedule that would be cut": (
        {
            "sampler__step_size": {
                "use": "linear",
                "start_value": 0.1,
                "end_value": 0.01,
                "n_steps": 50,
                "clock": "chain",
            }
        },
        "sampler.step_size",
        ("stated for 50 chain steps", "the chain runs 2", "leave its length out"),
    ),
    "a device that does not exist": (
        {"training__device": "cuda:97"},
        "training.device",
        ("no device 'cuda:97' on this machine", "cpu"),
    ),
    "a device that is none": (
        {"training__device": "abacus"},
        "training.device",
        ("'abacus' is no device", "auto, cpu, cuda"),
    ),
    "a reference to nothing": (
        {"loss__sampler": "@smpler"},
        "loss.sampler",
        ("refers to nothing; did you mean '@sampler'?",),
    ),
    "a reference to another kind": (
        {"loss__sampler": "@model"},
        "loss.sampler",
        ("the pipeline's model, and a sampler is needed",),
    ),
    "a part that refers to itself": (
        {"sampler": "@sampler"},
        "sampler",
        ("'@sampler' refers to itself",),
    ),
    "a buffer smaller than the batch": (
        {"loss__buffer_size": 15},
        "loss.buffer_size",
        ("15 slots", "state at least 16"),
    ),
    "epochs of an endless set": (
        {"training": {"epochs": 2}, "training__steps": None},
        "training.epochs",
        ("endless", "n_samples"),
    ),
    "steps and epochs": (
        {"training__epochs": 2, "dataset__n_samples": 100},
        "training.epochs",
        ("steps or epochs, not both",),
    ),
    "a batch larger than the set": (
        {"dataset__n_samples": 10},
        "training.batch_size",
        ("16 is more than the dataset's 10 rows",),
    ),
    "a model of other events": (
        {"model__event_shape": [3]},
        "model.event_shape",
        ("events of shape (3,)", "the data have (2,)"),
    ),
    "a conditional model of data without labels": (
        {"model__conditional": True},
        "model.conditional",
        ("n_classes", "labelled data"),
    ),
    "an unknown optimizer": (
        {"training__optimizer__use": "adm"},
        "training.optimizer.use",
        ("no optimizer 'adm'", "did you mean 'adam", "known: "),
    ),
    "a missing data file": (
        {"dataset": {"use": "array", "path": "no/such.npy"}, "dataset__use": "array"},
        "dataset",
        ("no/such.npy", "no such file"),
    ),
}
del TABLE["a table without use"]


@pytest.mark.parametrize("case", TABLE)
def test_each_line_of_the_table(case: str, refused: Callable[..., list[str]]) -> None:
    overrides, path, words = TABLE[case]
    (message,) = refused(**overrides)
    assert message.startswith(f"{path}: ")
    for word in words:
        assert word in message


def test_a_table_without_a_use(small: Any, refused: Callable[..., list[str]]) -> None:
    (message,) = refused({**small, "model": {"hidden": [3]}})
    assert message.startswith("model: the table has no `use`")
    assert "mlp" in message


def test_a_use_that_is_no_name(small: Any, refused: Callable[..., list[str]]) -> None:
    assert refused({**small, "model": {"use": 3}}) == ["model: `use` must name a model, got 3"]


@pytest.mark.parametrize("part", ["model", "loss", "dataset"])
def test_a_part_that_is_missing(part: str, small: Any, refused: Callable[..., list[str]]) -> None:
    tables = {key: value for key, value in small.items() if key != part}
    assert f"{part}: missing: the pipeline needs a {part}" in refused(tables)


def test_a_required_key_that_is_missing(small: Any, refused: Callable[..., list[str]]) -> None:
    messages = refused({**small, "dataset": {"use": "array"}})
    assert messages == ["dataset.path: missing: a string is needed"]


def test_a_sampler_that_the_loss_needs_and_nobody_states(
    small: Any, refused: Callable[..., list[str]]
) -> None:
    tables = {key: value for key, value in small.items() if key != "sampler"}
    (message,) = refused(tables)
    assert message.startswith("loss.sampler: '@sampler' refers to [sampler]")
    tables["loss"] = {"use": "cd"}
    (message,) = refused(tables)
    assert message.startswith("loss.sampler: missing")


def test_the_shared_sampler_is_taken_where_a_loss_states_none(small: Any) -> None:
    pipeline: Any = ebmkit.compose({**small, "loss": {"use": "cd"}})
    assert pipeline.loss.sampler is pipeline.sampler
    assert pipeline.tables["loss"]["sampler"] == "@sampler"


def test_the_distribution_that_a_spec_was_written_with(
    small: Any, refused: Callable[..., list[str]]
) -> None:
    tables = {
        **small,
        "sampler": {"use": "slice"},
        "parts": {"sampler:slice": "ebmkit-slice==2.1"},
    }
    (message,) = refused(tables)
    assert "no sampler is called 'slice'" in message
    assert "pip install ebmkit-slice==2.1" in message


def test_all_problems_are_reported_at_once(refused: Callable[..., list[str]]) -> None:
    messages = refused(
        model__hiden=[3],
        sampler__step_size=-1,
        loss__k_steps="x",
        dataset__use="two-mons",
        training__seed=-1,
        training__optimizer={"use": "adam", "lr": -1.0},
        evaluation__n_samples=1.5,
    )
    assert [message.partition(":")[0] for message in messages] == [
        "model.hiden",
        "sampler.step_size",
        "loss.k_steps",
        "dataset.use",
        "training.seed",
        "evaluation.n_samples",
        "training.optimizer",
    ]


def test_problems_of_parts_that_fit_alone_are_reported_at_once(
    refused: Callable[..., list[str]],
) -> None:
    messages = refused(
        loss__buffer_size=4,
        training__device="cuda:97",
        dataset__n_samples=8,
        model__event_shape=[3],
    )
    assert {message.partition(":")[0] for message in messages} == {
        "loss.buffer_size",
        "training.device",
        "training.batch_size",
        "model.event_shape",
    }


class TestFiles:
    def test_each_problem_has_its_line(self, cli: Callable[..., Any], tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_text(
            '[model]\nuse = "mlp"\nhidden = [\n  8,\n  "x",\n]\n'
            '[sampler]\nuse = "langevin"\nstep_size = { use = "linear", start_valu = 1 }\n'
            '[loss]\nuse = "cd"\n[dataset]\nuse = "two-mons"\n[training]\nsteps = 0\n'
        )
        said = cli("validate", path)
        assert said.code == 2
        assert said.out == ""
        places = [message.split(": ")[:2] for message in said.errors]
        assert places == [
            [f"{path}:3", "model.hidden[1]"],
            [f"{path}:9", "sampler.step_size.start_valu"],
            [f"{path}:9", "sampler.step_size.start_value"],
            [f"{path}:9", "sampler.step_size.end_value"],
            [f"{path}:13", "dataset.use"],
            [f"{path}:15", "training.steps"],
        ]

    def test_text_that_is_not_toml(self, cli: Callable[..., Any], tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_text('[model]\nuse = "mlp"\nhidden = [3\n')
        said = cli("train", path, "--out", tmp_path / "run")
        assert said.code == 2
        assert len(said.errors) == 1
        assert "not valid TOML" in said.errors[0] and "end of document" in said.errors[0]
        path.write_text("[model]\nuse = mlp\n")
        assert "(at line 2, column 7)" in cli("validate", path).errors[0]
        assert not (tmp_path / "run").exists()

    def test_a_missing_file_and_an_unknown_recipe(
        self, cli: Callable[..., Any], tmp_path: Path
    ) -> None:
        said = cli("validate", tmp_path / "no.toml")
        assert (said.code, said.errors) == (
            2,
            [f"{tmp_path / 'no.toml'}: cannot be read: No such file or directory"],
        )
        said = cli("validate", "two-mons")
        assert said.code == 2
        assert "did you mean 'two-moons'?" in said.errors[0]
        assert "nor is there a file 'two-mons'" in said.errors[0]

    def test_a_directory(self, cli: Callable[..., Any], tmp_path: Path) -> None:
        said = cli("validate", tmp_path)
        assert said.code == 2
        assert "is a directory" in said.errors[0]

    def test_a_csv_with_text_and_one_with_a_gap(
        self, small: Any, cli: Callable[..., Any], tmp_path: Path
    ) -> None:
        spec, data = tmp_path / "p.toml", tmp_path / "d.csv"
        spec.write_text(to_toml({**small, "dataset": {"use": "array", "path": str(data)}}))
        for cell in ("spam", "nan"):
            data.write_text("a,b\n" + "1.0,2.0\n" * 20 + f"3.0,{cell}\n")
            said = cli("validate", spec)
            assert said.code == 2
            assert said.errors[0].startswith(f"{spec}:")
            for word in (str(data), "22", "'b'"):
                assert word in said.errors[0]

    def test_memory_that_there_is_not(
        self,
        small: Any,
        cli: Callable[..., Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        spec, out = tmp_path / "p.toml", tmp_path / "run"
        spec.write_text(to_toml(small))
        for value in ("[1000000000]", "[1000000, 1000000]", "[9223372036854775807]"):
            said = cli("validate", spec, "--set", f"model.hidden={value}")
            assert said.code == 2
            assert "weights" in said.errors[0]
        words = ("train", spec, "--set", "loss.buffer_size=1000000000000", "--out", out)
        said = cli(*words)
        assert said.code == 2
        assert "needs 7.28 TiB of memory, and this machine has" in said.errors[0]
        assert not out.exists()
        # Where a system does not tell its memory, only the attempt does.
        monkeypatch.setattr(memory, "memory", lambda: float("inf"))
        said = cli(*words)
        assert said.code == 2
        assert "more memory is needed than there is" in said.errors[0]


class Shapeless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class Labelled(nn.Module):
    conditional = True

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x.sum(1) + condition


class TestModelsAndData:
    def test_a_model_that_takes_other_events(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(model=nn.Linear(3, 1))
        assert message.startswith("model: Linear cannot take the data's events of shape (2,)")

    def test_a_model_that_returns_a_column(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(model=Shapeless())
        assert "must return one energy a row, shape (2,)" in message
        assert "got (2, 1)" in message

    def test_a_model_that_returns_no_tensor(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(model=lambda x: 3.0)
        assert "got float" in message

    def test_a_model_that_wants_labels(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(model=Labelled())
        assert "the model is conditional and the data have no labels" in message

    @pytest.mark.parametrize(
        ("x", "words"),
        [
            (torch.zeros(5), "shape (size, *event)"),
            (torch.zeros(0, 2), "at least one row"),
            (torch.zeros(5, 2, dtype=torch.long), "floating dtype"),
            (torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), "data row 1 is not finite"),
        ],
    )
    def test_tensors_that_are_no_data(
        self, x: Tensor, words: str, refused: Callable[..., list[str]]
    ) -> None:
        (message,) = refused(dataset=x)
        assert message.startswith("dataset: ")
        assert words in message

    @pytest.mark.parametrize("part", ["sampler", "loss", "dataset", "model"])
    def test_live_objects_of_the_wrong_kind(
        self, part: str, refused: Callable[..., list[str]]
    ) -> None:
        messages = refused(**{part: object()})
        assert messages[0].startswith(f"{part}: object object is no {part}: it lacks ")


class Discrete:
    """Stays at its discrete states."""

    discrete = True

    def init(self, energy: Any, x: Tensor) -> Any:
        return Batch(x)

    def draw(self, state: Any, *, generator: torch.Generator) -> None:
        """Nothing is drawn."""

    def step(self, energy: Any, state: Any, noise: Any) -> Any:
        return state, {}


class Bits:
    """Random bits."""

    discrete = True
    event_shape = (2,)

    def draw(self, size: int, *, generator: torch.Generator) -> Batch:
        return Batch(torch.randint(2, (size, 2), generator=generator).float())


class TestDiscreteness:
    def test_a_discrete_sampler_of_continuous_data(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(sampler=Discrete())
        assert message.startswith("sampler: it moves discrete states and the data are continuous")

    def test_a_continuous_sampler_of_discrete_data(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(dataset=Bits())
        assert message.startswith("sampler: it moves continuous states and the data are discrete")

    def test_discrete_both(self, small: Any) -> None:
        assert ebmkit.compose(small, sampler=Discrete(), dataset=Bits()).step == 0

    def test_a_losss_own_sampler(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(loss__sampler=Discrete())
        assert message.startswith("loss.sampler: it moves discrete states")


CIRCULAR = '''
from ebmkit import Loss, Sampler


class Tempered:
    """Moves as another sampler does."""

    def __init__(self, inner: Sampler, loss: Loss | None = None) -> None:
        self.inner = inner

    def init(self, energy, x):
        return self.inner.init(energy, x)

    def draw(self, state, *, generator):
        return self.inner.draw(state, generator=generator)

    def step(self, energy, state, noise, **values):
        return self.inner.step(energy, state, noise, **values)
'''


class TestCycles:
    @pytest.fixture(autouse=True)
    def _tempered(self, install: Any) -> None:
        target = {"ebmkit.samplers": {"tempered": "foo_t:Tempered"}}
        install("foo-t", target, {"foo_t.py": CIRCULAR})

    def test_a_sampler_inside_itself(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(sampler={"use": "tempered", "inner": "@sampler"})
        assert message.startswith("sampler.inner: '@sampler' refers to itself")

    def test_deep_inside_itself(self, refused: Callable[..., list[str]]) -> None:
        inner = {"use": "tempered", "inner": "@sampler"}
        (message,) = refused(sampler={"use": "tempered", "inner": inner})
        assert message.startswith("sampler.inner.inner: '@sampler' refers to itself")

    def test_it_is_not_filled_in_from_itself(self, refused: Callable[..., list[str]]) -> None:
        (message,) = refused(sampler={"use": "tempered"})
        assert message.startswith("sampler.inner: missing")

    def test_two_parts_in_each_other(self, refused: Callable[..., list[str]]) -> None:
        inner = {"use": "langevin"}
        (message,) = refused(sampler={"use": "tempered", "inner": inner, "loss": "@loss"})
        assert "in a circle: " in message
        assert "sampler -> loss -> sampler" in message or "loss -> sampler -> loss" in message

    def test_a_sampler_inside_another_is_fine(self, small: Any) -> None:
        table = {"use": "tempered", "inner": {"use": "mala", "step_size": 0.1}}
        pipeline: Any = ebmkit.compose(small, sampler=table)
        assert type(pipeline.sampler.inner).__name__ == "MALA"
        assert pipeline.tables["parts"]["sampler:mala"].startswith(HOME)


def test_create_reports_as_compose_does() -> None:
    with pytest.raises(SpecError, match=r"sampler\.step_size: 'step_size' must be > 0"):
        ebmkit.create("sampler", "langevin", step_size=-1)
    with pytest.raises(SpecError, match="did you mean 'langevin'"):
        ebmkit.create("sampler", "langevim")
    with pytest.raises(ebmkit.UserError, match="did you mean 'sampler'"):
        ebmkit.create("samplr", "langevin")
    with pytest.raises(SpecError, match=r"model\.event_shape"):
        ebmkit.create("model", "mlp")
    part = ebmkit.create("loss", "cd", sampler={"use": "mala", "step_size": 1})
    assert type(part.sampler).__name__ == "MALA"
    live = ebmkit.create("sampler", "langevin")
    assert ebmkit.create("loss", "cd", sampler=live).sampler is live
