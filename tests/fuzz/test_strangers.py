"""What strangers hand in with intent: each is refused with a message, and nothing of it is executed."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ebmkit
from ebmkit import checkpoint, memory, registry
from ebmkit.cli.train import name_of
from ebmkit.errors import RunDirectoryError, UserError, legible
from ebmkit.provenance import RunWarning
from ebmkit.spec import to_toml
from tests.fuzz.targets import resummed


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def payload(tmp_path: Path) -> Any:
    """A payload that would leave a file behind, and the proof that it would."""
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.is_file()
    marker = tmp_path / "executed"
    yield Payload(marker)
    assert not marker.exists(), "the payload was executed"


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of functions that a spec might name."""
    import subprocess

    calls: list[Any] = []
    for module, name in ((os, "system"), (os, "popen"), (subprocess, "Popen")):
        monkeypatch.setattr(module, name, lambda *words, **_: calls.append(words))
    return calls


@pytest.fixture
def run(trained: Any, tmp_path: Path) -> Path:
    """A copy of a run with one checkpoint."""
    copied = tmp_path / "run"
    shutil.copytree(trained[0], copied)
    for path in sorted((copied / "checkpoints").iterdir())[:-1]:
        path.unlink()
    return copied


def only_checkpoint(run: Path) -> Path:
    (path,) = (run / "checkpoints").iterdir()
    return path


# Checkpoints -----------------------------------------------------------------------------------


def pickled(payload: Payload, path: Path) -> None:
    path.write_bytes(pickle.dumps(payload))


def saved_by_torch(payload: Payload, path: Path) -> None:
    torch.save({"weights": payload}, path)


def pickled_after_a_length(payload: Payload, path: Path) -> None:
    content = pickle.dumps(payload)
    path.write_bytes(struct.pack("<Q", len(content)) + content)


COMMANDS: dict[str, list[str]] = {
    "evaluate": [],
    "sample": ["--count", "2", "--out", "samples.npy"],
    "diagnose": [],
    "resume": ["--steps", "20"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("way", [pickled, saved_by_torch, pickled_after_a_length])
def test_a_pickle_that_is_called_a_checkpoint(
    way: Callable[[Payload, Path], None],
    command: str,
    run: Path,
    payload: Payload,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(run.parent)
    path = only_checkpoint(run)
    way(payload, path)
    said = cli(command, run, *COMMANDS[command])
    assert said.code == 2
    assert [str(path) in line and "not a readable checkpoint" in line for line in said.errors] == [
        True
    ]


def test_a_pickle_beside_a_good_checkpoint_is_told_of_and_left_out(
    run: Path, payload: Payload
) -> None:
    pickled(payload, run / "checkpoints" / "step-00000099.safetensors")
    with pytest.warns(RunWarning, match=r"step-00000099.safetensors: not a readable checkpoint"):
        assert ebmkit.load(run).step == 12


def changed(run: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The run's checkpoint with something else in it, and a checksum that is right."""
    path = only_checkpoint(run)
    tree = checkpoint.read(path)
    change(tree)
    checkpoint.write(path, tree)
    return path


def set_in(tree: dict[str, Any], at: str, value: Any) -> None:
    *above, last = at.split(".")
    for key in above:
        tree = tree[key]
    tree[last] = value


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        ("step", "../../x", "step: expected a count, got '../../x'"),
        ("step", -1, "step: expected a count"),
        ("step", 10**300, "step: expected a count"),
        ("step", True, "step: expected a count"),
        ("kept_step", "../x", "kept_step: expected a count"),
        ("rollbacks", {}, "no 'count'"),
        ("order.rows", "all", "order.rows: expected numbers of rows"),
        ("weights.trained", {}, "Missing key"),
        ("weights.trained", {"../../x": torch.ones(1)}, "../../x"),
        ("generators.loss", torch.zeros(3, dtype=torch.uint8), "RNG state"),
        ("hooks", [1], "hooks: expected a table"),
        ("process", 3, "process: expected a table"),
        ("loss", None, ""),
        ("optimizer", {"state": {}, "param_groups": []}, "parameter group"),
    ],
)
def test_a_checkpoint_that_holds_something_else(
    at: str, value: Any, message: str, run: Path
) -> None:
    path = changed(run, lambda tree: set_in(tree, at, value))
    if not message:
        ebmkit.load(run)
        return
    with pytest.raises(RunDirectoryError) as caught:
        ebmkit.load(run)
    assert str(caught.value).startswith(f"{path}: does not fit the run's spec: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss: loss._replace(x=loss.x[:, :1]), "expected points (n, 2), got torch.float32"),
        (lambda loss: loss._replace(x=loss.x.long()), "got torch.int64"),
        (lambda loss: loss._replace(x=loss.x[:0]), "of shape (0, 2)"),
        (lambda loss: loss._replace(x=None), "does not fit the run's spec"),
        (lambda loss: "chains", "does not fit the run's spec"),
    ],
)
def test_chains_that_are_none(change: Callable[[Any], Any], message: str, run: Path) -> None:
    changed(run, lambda tree: tree.update(loss=change(tree["loss"])))
    with pytest.raises(RunDirectoryError, match=re.escape(message)):
        ebmkit.load(run)


def test_a_state_from_which_no_step_can_be_taken(run: Path, cli: Callable[..., Any]) -> None:
    changed(run, lambda tree: tree.update(loss=tree["loss"]._replace(age=torch.zeros(3))))
    said = cli("resume", run, "--steps", 20)
    assert said.code == 2
    assert "no step can be taken from its last checkpoint" in said.errors[0]


def test_generators_that_are_none(run: Path, cli: Callable[..., Any]) -> None:
    changed(run, lambda tree: tree.update(process={"cpu": torch.zeros(4)}))
    said = cli("resume", run, "--steps", 20)
    assert said.code == 2
    assert "states of torch's generators are none" in said.errors[0]


def with_tree(path: Path, tree: str) -> None:
    """Another description of the tree in a checkpoint's header."""
    import json

    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["tree"] = tree
    content = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(resummed(struct.pack("<Q", len(content)) + content + data[8 + length :]))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ('{"list":[' + ",".join(['{"tensor":"/x"}'] * 1000) + "]}", "names the tensor '/x' twice"),
        ('{"list":' * 3000 + "1" + "}" * 3000, "recursion"),
        ("[" * 100_000, "recursion"),
        (
            '{"list":['
            + ",".join(f'{{"named":"N{i}","fields":[],"values":[]}}' for i in range(200))
            + "]}",
            "more than 100 kinds",
        ),
        ('{"named":"N","fields":["__import__(\'os\')"],"values":[]}', "valid identifier"),
        ('{"named":"os.system","fields":[],"values":[]}', "valid identifier"),
        ('{"value":{"a":1}}', "a dict for a plain value"),
        ('{"dict":[[[],{"value":1}]]}', "a list for a key"),
        ("3", "an int for a node".replace("an", "a")),
        ("{}", "it has no 'value'"),
    ],
)
def test_a_tree_that_is_none(tree: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "step-1.safetensors"
    checkpoint.write(path, {"x": torch.zeros(1000)})
    with_tree(path, tree)
    with pytest.raises(RunDirectoryError, match=re.escape(f"{path}: not a readable")) as caught:
        checkpoint.read(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("claimed", [2**24 + 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_to_be_huge(claimed: int, tmp_path: Path) -> None:
    path = tmp_path / "step-1.safetensors"
    path.write_bytes(struct.pack("<Q", claimed) + b"{}" * 100)
    with pytest.raises(RunDirectoryError, match="torn, or no safetensors file"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "diagnosis.png", "checkpoints/step-1.safetensors"]
)
def test_a_run_with_links_to_another_place(name: str, run: Path, cli: Callable[..., Any]) -> None:
    precious = run.parent / "precious"
    precious.write_text("mine")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    for command, words in COMMANDS.items():
        said = cli(command, run, *words)
        assert said.code == 2
        assert (
            f"{name}: is a link to {str(precious)!r}, out of the run's directory" in said.errors[0]
        )
    assert precious.read_text() == "mine"


def test_links_within_a_run_do_no_harm(run: Path) -> None:
    (run / "last").symlink_to(only_checkpoint(run))
    assert ebmkit.load(run).step == 12


# Data ------------------------------------------------------------------------------------------

ROWS = np.arange(12.0).reshape(6, 2)


def refused(path: Path, **fields: Any) -> str:
    with pytest.raises(UserError) as caught:
        ebmkit.create("dataset", "array", path=str(path), **fields).draw(
            1, generator=torch.Generator()
        )
    assert str(path) in str(caught.value)
    return str(caught.value)


def npy(shape: str, descr: str = "'<f8'", body: bytes = b"", *, fortran: bool = False) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def test_pickled_objects_in_npy_and_npz(tmp_path: Path, payload: Payload) -> None:
    objects = np.empty((3, 2), object)
    objects[:] = payload
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=objects)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(payload))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(payload))
    for name in ("a.npy", "a.npz"):
        assert "without pickle, got Object arrays, which are pickled and could run code" in refused(
            tmp_path / name
        )
    for name in ("b.npy", "b.npz"):
        assert "neither an npy nor an npz file" in refused(tmp_path / name)


def test_objects_within_records(tmp_path: Path, payload: Payload) -> None:
    content = npy("(1,)", "[('a', '|O')]", pickle.dumps(payload))
    (tmp_path / "a.npy").write_bytes(content)
    assert "real numbers" in refused(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "name", ["../../evil.npy", "/etc/evil.npy", "a/../../evil.npy", "..\\evil.npy", "C:\\evil.npy"]
)
def test_an_archive_whose_members_lead_out_of_it(name: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, ROWS)
    path = tmp_path / "inner" / "folder" / "slip.npz"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x.npy")
        info.filename = name
        archive.writestr(info, content.getvalue())
    before = sorted(tmp_path.rglob("*"))
    for key in (None, name, name.removesuffix(".npy")):
        assert f"its member {name!r} leads out of the archive" in refused(path, key=key)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_unpacks_to_very_much_more(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    zeros = bytes(2**20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(npy(f"({2**17 * 80}, 1)"))
        for _ in range(80):
            member.write(zeros)
    assert path.stat().st_size < 2**20
    said = refused(path)
    assert re.search(
        r"bomb.npz\['x'\]: [\d,]+ bytes that unpack to 83,886,\d+, more than 100", said
    )


def test_an_archive_that_unpacks_to_a_little_more_is_read(tmp_path: Path) -> None:
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, x=np.zeros((10_000, 20)))
    assert path.stat().st_size * 100 < 10_000 * 20 * 8
    rows = ebmkit.create("dataset", "array", path=str(path))
    assert rows.n_samples == 10_000


@pytest.mark.parametrize(
    "shape",
    ["(1000000000000, 2)", "(9223372036854775807, 9)", "(2**9,)", "(7, 2)", "(-1, 2)", "(6.0, 2)"],
)
def test_a_header_that_claims_more_than_there_is(shape: str, tmp_path: Path) -> None:
    content = npy(shape, body=ROWS.tobytes())
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    for name in ("a.npy", "a.npz"):
        said = refused(tmp_path / name)
        assert ("and 96 follow" in said) == shape[1:2].isdigit() * ("**" not in shape) * (
            "." not in shape
        )


@pytest.mark.parametrize("shape", ["(9223372036854775808, -0, 2)", "(4294967296, 4294967296, 0)"])
@pytest.mark.parametrize("fortran", [True, False])
def test_a_header_of_nothing_along_more_rows_than_can_be_counted(
    shape: str, fortran: bool, tmp_path: Path
) -> None:
    (tmp_path / "a.npy").write_bytes(npy(shape, fortran=fortran))
    assert "as there is none" in refused(tmp_path / "a.npy")


def test_more_numbers_than_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory", lambda: 1000)
    np.save(tmp_path / "a.npy", np.zeros((100, 2), np.int8))
    assert "needs 1,600 bytes of memory, and this machine has 1,000 bytes" in refused(
        tmp_path / "a.npy"
    )
    with pytest.raises(UserError, match=r"n_samples = 11 needs 1,056 bytes"):
        list(ebmkit.create("dataset", "two-moons", n_samples=11)[:1])


def test_a_row_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1," * (2**21 + 1) + "1\n")
    assert "rows of at most 4,194,304 characters" in refused(path)
    path.write_text('"\n",' * (2**20) + "1\n")
    assert "rows of at most 4,194,304 characters" in refused(path)


def test_a_class_for_which_there_would_be_weights_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,0\n2,999999999999\n3,1\n")
    said = refused(path, label="y")
    assert "row 1 (counted from 0, without names): expected a class label below 65,536" in said
    path.write_text("x,y\n1,0\n2,65535\n3,1\n")
    assert ebmkit.create("dataset", "array", path=str(path), label="y").n_classes == 65536


# Names -----------------------------------------------------------------------------------------

PATHS = ["os.system", "os:system", "builtins:eval", "builtins.eval", "subprocess:Popen", "os"]


@pytest.mark.parametrize("name", PATHS)
def test_a_function_of_pythons_is_no_part(
    name: str, tmp_path: Path, cli: Callable[..., Any], called: list[Any], small: Any
) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(to_toml(small))
    places = [
        "model",
        "sampler",
        "loss.sampler",
        "dataset",
        "training.data_noise",
        "evaluation.loss",
    ]
    for some in (places, ["loss"]):
        words = [word for at in some for word in ("--set", f'{at}={{use="{name}"}}')]
        said = cli("validate", path, *words)
        assert said.code == 2
        for at in some:
            kind = {"training.data_noise": "scheduler"}.get(at, at.rpartition(".")[2])
            line = next(line for line in said.errors if f"{at}.use: " in line)
            assert f"no {kind} is called {name!r}" in line
            if name != "os":
                assert "nothing is ever imported by a path of Python's" in line
        assert "pip install" not in said.err
    assert not called


@pytest.mark.parametrize("name", PATHS)
def test_a_function_of_pythons_is_no_optimizer_and_no_hook(
    name: str, tmp_path: Path, cli: Callable[..., Any], called: list[Any], small: Any
) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(to_toml({**small, "hooks": {name: {"command": "touch x"}}}))
    said = cli("train", path, "--set", f'training.optimizer={{use="{name}", lr=0.1}}')
    assert said.code == 2
    assert f"training.optimizer.use: torch.optim has no optimizer {name!r} that fits" in said.err
    assert f"no hook is called {name!r}" in said.err
    assert not called
    assert not (Path.cwd() / "runs" / "spec").exists()


@pytest.mark.parametrize(
    "name", ["__class__", "__init__", "../../x", "", ":", "mlp\x1b[31m", "a b"]
)
def test_names_that_are_none(name: str, small: Any) -> None:
    with pytest.raises(UserError, match=r"no model is called|no plugin distribution") as caught:
        ebmkit.compose({**small, "model": {"use": name}})
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../etc/passwd", "../x", "/etc/passwd", "..", "../../x.toml"])
def test_a_recipe_that_leads_elsewhere(name: str, cli: Callable[..., Any]) -> None:
    said = cli("recipes", name)
    assert said.code == 2
    assert f"no recipe is called {name!r}" in said.errors[0]
    assert cli("validate", name).code == 2


def test_a_recipe_whose_plugin_points_out_of_it(
    install: Any, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    (tmp_path / "secret.toml").write_text("# a secret\n")
    install(
        "sly",
        {"ebmkit.recipes": {"sly": "sly_recipes:../../secret", "dot": "sly_recipes:.."}},
        {"sly_recipes/__init__.py": ""},
    )
    assert (tmp_path / "site" / "sly_recipes" / "../../secret.toml").resolve().is_file()
    for name in ("sly", "dot"):
        for command in ("recipes", "validate"):
            said = cli(command, name)
            assert said.code != 0
            assert "secret" not in said.out
            assert re.search(r"there is no file for|has no file", said.err)
    assert "a secret" not in cli("recipes").out


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "..", "a/b", "evil\x00", "a\\b", "-evil"]
)
def test_a_plugin_that_would_be_written_elsewhere(
    name: str, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner" / "folder"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    said = cli("new-plugin", "--kind", "model", "--", name)
    assert said.code == 2
    assert "is no name of a distribution" in said.errors[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("two-moons", "two-moons"),
        ("dist:two-moons", "dist-two-moons"),
        ("a/b/c.toml", "c"),
        ("....toml", "run"),
        ("...toml", "run"),
        ("a b;rm -rf ~.toml", "a-b-rm--rf"),
        ("..\\..\\x.toml", "x"),
        ("x\x1b[31m.toml", "x-31m"),
    ],
)
def test_what_a_run_is_called(spec: str, name: str) -> None:
    assert name_of(spec) == name


def test_what_a_spec_says_to_install_is_a_distribution(small: Any) -> None:
    spec = {**small, "model": {"use": "theirs"}}
    said = []
    for owner in ("theirs==1.0", "--index-url http://evil x", "x; touch y", "x==1 --pre"):
        with pytest.raises(UserError) as caught:
            ebmkit.compose({**spec, "parts": {"model:theirs": owner}})
        said.append("pip install" in str(caught.value))
    assert said == [True, False, False, False]


# Sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("training.batch_size", "1,000,000,000,000 points of shape (2,) needs 7.28 TiB of memory"),
        ("loss.buffer_size", "needs 7.28 TiB of memory, and this machine has"),
        ("evaluation.n_samples", "needs 7.28 TiB of memory"),
        ("evaluation.annealing_chains", "needs 7.28 TiB of memory"),
        ("dataset.n_samples", "must be <= 100000000"),
    ],
)
def test_counts_that_fit_into_no_memory(at: str, message: str, small: Any) -> None:
    with pytest.raises(UserError) as caught:
        ebmkit.compose(small, **{at: 10**12})
    assert any(at in line and message in line for line in str(caught.value).splitlines())


def test_a_model_that_fits_into_no_memory(monkeypatch: pytest.MonkeyPatch, small: Any) -> None:
    ebmkit.compose(small)
    monkeypatch.setattr("ebmkit.composer.points_fit", lambda *_: None)
    # 2·8 + 8 + 8·1 + 1 weights of four bytes each.
    monkeypatch.setattr(memory, "memory", lambda: 131)
    with pytest.raises(UserError, match="the model needs 132 bytes of memory"):
        ebmkit.compose(small)


def test_memory_is_that_of_the_control_group_where_that_is_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTROL_GROUP", (limit, tmp_path / "none"))
    whole = min(memory._limits())
    limit.write_text("max\n")
    assert min(memory._limits()) == whole
    limit.write_text("12345\n")
    assert min(memory._limits()) == 12345


# Pipeline files --------------------------------------------------------------------------------

DEEP = ".".join(["a"] * 31)
TEXTS = {
    "a long key": ("a." * 100_000 + "a = 1", "more than 30 dots"),
    "a long header": (f"[{DEEP}]", "nested too deeply"),
    "a long quoted key": ('"x".' * 60_000 + "a = 1", "more than 30 dots"),
    "deep lists": ("x = " + "[" * 40 + "]" * 40, "nested too deeply"),
    "very deep lists": ("x = " + "[" * 100_000, "nested too deeply"),
    "very deep tables": ("x = " + "{a=" * 50_000, "nested too deeply"),
    "keys": ("\n".join(f"k{i} = 1" for i in range(3000)), "at most 2,000 keys in all"),
    "tables": ("[[hooks.x]]\n" * 20_000, "at most 2,000 keys in all"),
    "a long number": ("training.steps = 0x" + "f" * 20_000, "at most 64 bits"),
    "a longer number": ("training.steps = " + "9" * 20_000, "Exceeds the limit"),
    "65 bits": ("training.seed = 9223372036854775808", "at most 64 bits"),
    "wrong values": (
        '[model]\nuse = "mlp"\nhidden = [' + '"a", ' * 20_000 + "]",
        "expected a whole number",
    ),
    "parts": (
        'training.data_noise = {use="sequential", milestones=[], schedulers=['
        + '"x", ' * 20_000
        + "]}",
        "expected at most 200 schedulers, got 20,000",
    ),
    "a large file": ("#" * 300_000, "larger than 262,144 bytes"),
    "control characters": (
        'model = "mlp"\n["\\u001b[31m\\u202e"]',
        "\\x1b[31m\\u202e: no such table",
    ),
    "a long name": ('model = "' + "x" * 200_000 + '"', "characters …"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_pipeline_files_that_are_too_much(
    name: str, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    import time

    text, message = TEXTS[name]
    path = tmp_path / "spec.toml"
    path.write_text(text)
    cli("validate", tmp_path / "none.toml")
    began = time.process_time()
    said = cli("validate", path)
    assert time.process_time() - began < 2
    assert said.code == 2
    assert message in said.err
    assert len(said.err) < 100_000
    assert "\x1b" not in said.err


def test_overrides_are_bounded_likewise(cli: Callable[..., Any]) -> None:
    for word, message in (
        ("a." * 50 + "a=1", "is not a TOML value"),
        (DEEP + "=1", "expected at most 30 keys, got 31"),
        ("training.seed=0x" + "f" * 5000, "at most 64 bits"),
        ("x=" + "[" * 35 + "]" * 35, "nested too deeply"),
        ("x=" + "[" * 5000, "is not a TOML value"),
    ):
        said = cli("validate", "two-moons", "--set", word)
        assert said.code == 2
        assert message in said.err


def test_only_the_first_problems_are_told() -> None:
    with pytest.raises(UserError) as caught:
        ebmkit.compose({f"k{i}": 1 for i in range(500)})
    lines = str(caught.value).splitlines()
    assert len(lines) == 101
    assert lines[-1] == "and 403 more problems"


def test_what_a_terminal_can_show() -> None:
    assert legible("häuser ≥ 1") == "häuser ≥ 1"
    assert legible("a\x1b[2Jb\x07\u202e\nc") == "a\\x1b[2Jb\\x07\\u202e\nc"
    assert len(legible("x" * 10**6)) < 5000


def test_metadata_of_plugins_that_are_too_much(install: Any, cli: Callable[..., Any]) -> None:
    long = {"ebmkit.models": {"x": "a." * 3000 + "b:C"}}
    install("long", long, requires=["ebmkit-core>=" + "9" * 5000])
    install("deep", long)
    install("nameless", "[ebmkit.models]\n = a:B\n")
    assert cli("list-plugins").code == 0
    found = registry.registry()
    reasons = {c.distribution: c.reason for c in found.checked() if c.name == "x"}
    assert "cannot be read" in reasons["long"]
    assert "there is no module" in reasons["deep"]
    assert any("an entry point of it has no name" in line for line in found.unreadable)
