"""Reading pipeline files, overrides, and the places of problems."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from ebmkit.errors import SpecError
from ebmkit.spec import (
    SIZE_LIMIT,
    Spec,
    check_sections,
    parse_assignment,
    parse_toml,
    read_toml,
    to_toml,
)

TABLES = {
    "model": {"use": "mlp", "hidden": [16, 16]},
    "sampler": {"use": "langevin", "step_size": {"use": "cosine", "start_value": 0.1}},
    "loss": {"use": "cd", "sampler": "@sampler", "k_steps": 5},
    "dataset": "two-moons",
    "training": {"steps": 10},
}


def overridden(**values: Any) -> Spec:
    return Spec(tables=TABLES).with_overrides({k.replace("__", "."): v for k, v in values.items()})


class TestReading:
    def said(self, path: Path) -> str:
        with pytest.raises(SpecError) as caught:
            read_toml(path)
        return str(caught.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        path = tmp_path / "no.toml"
        assert self.said(path) == f"{path}: cannot be read: No such file or directory"

    def test_text_that_is_not_toml(self, tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_text('[model]\nuse = "mlp\n')
        said = self.said(path)
        assert said.startswith(f"{path}: not valid TOML: ")
        assert "(at line 2, column 11)" in said

    @pytest.mark.parametrize(
        ("value", "remedy"),
        [
            ("yes", "; write true"),
            ("True", "; write true"),
            ("no", "; write false"),
            ("False # not now", "; write false"),
            ("None", "; TOML has no None: leave the key out"),
            ("langevin", '; write a word in quotes, "langevin"'),
            ("1 2", ""),
            ("}", ""),
        ],
    )
    def test_a_value_that_is_none_is_shown_with_the_remedy(
        self, tmp_path: Path, value: str, remedy: str
    ) -> None:
        path = tmp_path / "p.toml"
        path.write_bytes(f"[dataset]\r\nuse = 'array'\r\n  whiten = {value}\r\n".encode())
        said = self.said(path)
        assert re.search(r"\(at line 3, column \d+\): whiten = ", said)
        assert said.endswith(f": whiten = {value}{remedy}")

    def test_a_long_line_is_shown_in_part(self, tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_text("a = " + "?" * 10_000)
        assert len(self.said(path)) < len(str(path)) + 200

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_bytes(b"a = '\xff'")
        assert self.said(path) == f"{path}: not UTF-8 text (byte 5)"

    def test_a_file_too_large(self, tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_text("#" * (SIZE_LIMIT + 1))
        assert "larger than 262,144 bytes" in self.said(path)

    def test_depth_without_end(self, tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_text("a = " + "[" * 100_000)
        assert "nested too deeply" in self.said(path)

    def test_a_whole_number_too_long_to_read(self, tmp_path: Path) -> None:
        path = tmp_path / "p.toml"
        path.write_text("a = " + "9" * 10_000)
        assert "not valid TOML" in self.said(path)


class TestOverrides:
    def test_a_value_at_a_path(self) -> None:
        spec = overridden(loss__k_steps=7, training__seed=3)
        assert spec.tables["loss"]["k_steps"] == 7
        assert spec.tables["training"] == {"steps": 10, "seed": 3}
        assert spec.notices == ()

    def test_the_spec_itself_is_left_as_it_was(self) -> None:
        before = copy.deepcopy(TABLES)
        overridden(loss__k_steps=7, model__use="gaussian", sampler={"use": "mala"})
        assert before == TABLES

    def test_another_use_drops_the_keys_and_says_so(self) -> None:
        spec = overridden(sampler__use="mala")
        assert spec.tables["sampler"] == {"use": "mala"}
        (line,) = spec.notices
        assert "sampler.use = 'mala' replaces 'langevin'" in line
        assert "dropped its keys: step_size" in line

    def test_the_same_use_keeps_them_and_says_nothing(self) -> None:
        spec = overridden(sampler__use="langevin")
        assert spec.tables == TABLES
        assert spec.notices == ()

    def test_a_new_use_without_keys_to_drop_says_nothing(self) -> None:
        assert Spec({"model": {"use": "a"}}).with_overrides({"model.use": "b"}).notices == ()

    def test_inside_a_nested_table(self) -> None:
        spec = overridden(sampler__step_size__use="linear", sampler__step_size__end_value=0.0)
        assert spec.tables["sampler"]["step_size"] == {"use": "linear", "end_value": 0.0}
        assert "sampler.step_size.use = 'linear' replaces 'cosine'" in spec.notices[0]

    def test_a_table_is_merged_into_the_one_there(self) -> None:
        spec = overridden(sampler={"noise_scale": 0.5}, loss={"use": "pcd", "k_steps": 3})
        assert spec.tables["sampler"]["step_size"] == TABLES["sampler"]["step_size"]  # type: ignore[index]
        assert spec.tables["sampler"]["noise_scale"] == 0.5
        assert spec.tables["loss"] == {"use": "pcd", "k_steps": 3}
        assert len(spec.notices) == 1

    def test_a_name_becomes_a_table_where_a_key_of_it_is_set(self) -> None:
        spec = overridden(dataset__noise=0.1)
        assert spec.tables["dataset"] == {"use": "two-moons", "noise": 0.1}

    def test_a_name_is_replaced_by_its_use(self) -> None:
        assert overridden(dataset__use="rings").tables["dataset"] == {"use": "rings"}

    def test_tables_that_are_not_there_are_made(self) -> None:
        assert overridden(evaluation__n_samples=5).tables["evaluation"] == {"n_samples": 5}

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("loss.sampler.step_size", "set the key in [sampler], which it stands for"),
            ("training.steps.use_of", "training.steps is 10, not a table; set training.steps.use"),
            ("model.hidden.x.y", "model.hidden is [16, 16], not a table"),
        ],
    )
    def test_into_what_is_no_table(self, path: str, words: str) -> None:
        with pytest.raises(SpecError) as caught:
            overridden(**{path.replace(".", "__"): 1})
        assert words in str(caught.value)
        assert str(caught.value).startswith(path)

    def test_a_number_becomes_a_schedule(self) -> None:
        spec = overridden(training__steps=3, loss__k_steps__use="x")
        assert spec.tables["loss"]["k_steps"] == {"use": "x"}

    def test_a_reference_becomes_a_part_of_its_own(self) -> None:
        spec = overridden(loss__sampler={"use": "mala"})
        assert spec.tables["loss"]["sampler"] == {"use": "mala"}

    def test_live_objects_stay_the_objects_they_are(self) -> None:
        thing = object()
        spec = overridden(model=thing)
        assert spec.tables["model"] is thing
        assert spec.with_overrides({"training.seed": 2}).tables["model"] is thing


class TestAssignments:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a.b=1", ("a.b", 1)),
            ("a = 1e-3", ("a", 1e-3)),
            ("a=mala", ("a", "mala")),
            ("a=two-moons", ("a", "two-moons")),
            ("a=dist:name", ("a", "dist:name")),
            ("a=@sampler", ("a", "@sampler")),
            ('a="x y"', ("a", "x y")),
            ("a=true", ("a", True)),
            ("a=[1, 2]", ("a", [1, 2])),
            ('a={ use = "linear", end_value = 0 }', ("a", {"use": "linear", "end_value": 0})),
            ("a=b=c", None),
            ("a", None),
            ("=1", None),
            ("a..b=1", None),
            (".a=1", None),
            ("a=", None),
            ("a=1 2", None),
            ("a=1\nb=2", None),
            ("a=[1", None),
            ("a=x/y.csv", ("a", "x/y.csv")),
            ("a=../x", ("a", "../x")),
            ("a=~/x", ("a", "~/x")),
            ("a=.5", None),
            ("a=x y/z", None),
        ],
    )
    def test_what_is_read(self, text: str, expected: Any) -> None:
        if expected is None:
            with pytest.raises(SpecError, match="--set"):
                parse_assignment(text)
        else:
            assert parse_assignment(text) == expected

    @pytest.mark.parametrize(
        ("text", "remedy"),
        [
            ("model.hidden=64,64", "; write [64, 64]"),
            ("a=1.5, -2e3", "; write [1.5, -2e3]"),
            ("a=height,width", '; write ["height", "width"]'),
            ("a=1,,2", ""),
            ("a=[1,2", ""),
            ("a='x,y", ""),
        ],
    )
    def test_a_list_without_brackets_is_shown_with_them(self, text: str, remedy: str) -> None:
        with pytest.raises(SpecError) as caught:
            parse_assignment(text)
        assert str(caught.value).endswith(f"is not a TOML value{remedy}")

    def test_inf_is_a_number(self) -> None:
        assert parse_assignment("a=inf") == ("a", float("inf"))


class TestPlaces:
    text = '[model]\nuse = "mlp"\nhidden = [\n  1,\n  "x",\n]\n[loss]\nuse = "cd"\n'

    @pytest.mark.parametrize(
        ("path", "line"),
        [("model.hidden[1]", 3), ("model.use", 2), ("loss.k_steps", 7), ("sampler", None)],
    )
    def test_a_problem_has_its_line(self, path: str, line: int | None) -> None:
        assert parse_toml(self.text, "p.toml").problem(path, "no").line == line

    def test_what_an_override_set_stands_in_no_file(self) -> None:
        spec = parse_toml(self.text, "p.toml").with_overrides({"model.hidden": [2]})
        error = SpecError(
            [spec.problem("model.hidden", "no"), spec.problem("loss.use", "no")], "p.toml"
        )
        assert str(error).splitlines() == ["model.hidden: no", "p.toml:8: loss.use: no"]

    def test_an_unknown_table_has_a_suggestion(self) -> None:
        (problem,) = check_sections(parse_toml("[samplr]\nuse = 'x'\n", "p.toml"))
        assert (problem.path, problem.line) == ("samplr", 1)
        assert "no such table; did you mean 'sampler'?" in problem.message


def test_none_has_no_place_in_toml() -> None:
    assert to_toml({"a": {"b": None, "c": [1]}}) == "[a]\nc = [\n    1,\n]\n"


def test_a_nested_override_is_spoken_of_by_its_whole_path() -> None:
    schedule = {"use": "cosine", "start_value": 0.1, "end_value": 0.0}
    spec = Spec(tables={"sampler": {"use": "langevin", "step_size": schedule}})
    replaced = spec.with_overrides({"sampler": {"step_size": {"use": "constant", "value": 0.2}}})
    assert replaced.tables["sampler"]["step_size"] == {"use": "constant", "value": 0.2}
    [notice] = replaced.notices
    assert notice.startswith("sampler.step_size.use = 'constant' replaces 'cosine'")
    shared = Spec(tables={"loss": {"use": "pcd", "sampler": "@sampler"}})
    with pytest.raises(SpecError, match=r"^loss\.sampler\.step_size: cannot be set"):
        shared.with_overrides({"loss": {"sampler.step_size": 0.1}})
