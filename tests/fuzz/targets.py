"""The readers, each as a function of bytes that ends well, or in an EbmkitError that says why."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy as np
import torch
from ebmkit_datasets.array import Array
from ebmkit_reporting import metrics_writer

from ebmkit import checkpoint, registry, sources
from ebmkit.cli.diagnose import _records as diagnose_records
from ebmkit.composer import _Composer, compose, load_spec
from ebmkit.diagnostics.training import training_path
from ebmkit.errors import DivergenceError, EbmkitError
from ebmkit.hooks import Hooks
from ebmkit.loading import take_newest
from ebmkit.pipeline import Pipeline
from ebmkit.provenance import made_by, moved
from ebmkit.reports import written
from ebmkit.rundir import RunDirectory
from ebmkit.running import _first_step_from
from ebmkit.seeds import process_generators, set_process_generators
from ebmkit.spec import parse_assignment, read_toml
from tests.fuzz import spoiling

SECONDS = 2.0
"""Of processor time, for one input."""
_STUCK = 30.0


class FoundError(AssertionError):
    """An input that did not end as it should."""


class Outcome(NamedTuple):
    """How an input ended."""

    refused: str
    """The message; empty where the input is good."""
    seconds: float


class Target(NamedTuple):
    """A reader, what to begin with, and how to spoil it."""

    read: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]
    words: Sequence[bytes] = ()
    own: Sequence[spoiling.Spoiler] = ()
    share: float = 0.4
    """Of changes that know the format."""

    def spoilt(self, chance: random.Random) -> bytes:
        return spoiling.spoilt(
            self.seeds(), chance, words=self.words, own=self.own, share=self.share
        )

    def changed(self, data: bytes, chance: random.Random) -> bytes:
        return spoiling.spoilt([data], chance, words=self.words, own=self.own, share=self.share)

    def warm_up(self) -> None:
        """Read what is not spoilt, and import what that needs, which is no input's doing."""
        for seed in self.seeds():
            with contextlib.suppress(EbmkitError):
                self.read(seed)


def attempt(target: Target, data: bytes) -> Outcome:
    """Read an input.

    Raises:
        FoundError: it ended in another exception, without a message, or too late.
    """
    began = time.process_time()
    refused = ""
    try:
        with _alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(data)
    except EbmkitError as error:
        refused = str(error)
        if not refused.strip():
            raise FoundError(f"{type(error).__name__} without a message") from error
    except _LateError:
        raise FoundError(f"still reading after {_STUCK:g} s") from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise FoundError(f"{type(error).__name__}: {str(error)[:500]}") from error
    seconds = time.process_time() - began
    if seconds > SECONDS:
        raise FoundError(f"took {seconds:.1f} s")
    return Outcome(refused, seconds)


class _LateError(BaseException):
    pass


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise _LateError

    former = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, _STUCK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@cache
def _folder() -> Path:
    """In memory where that can be, for every input is written to a file."""
    shared = Path("/dev/shm")
    place = tempfile.TemporaryDirectory(
        prefix="ebmkit-fuzz-", dir=shared if os.access(shared, os.W_OK) else None
    )
    _kept.append(place)
    return Path(place.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _file(name: str, data: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(data)
    return path


# Specs -----------------------------------------------------------------------------------------


@cache
def _recipes() -> list[bytes]:
    components = registry.scan(third_party=False).components
    paths = [sources.recipe_path(c) for c in components if c.kind == "recipe"]
    return [path.read_bytes() for path in paths if path] + [_EVERY_KIND]


_EVERY_KIND = b"""
model = "mlp"
loss = {use = "pcd", sampler = "@sampler", k_steps = 3, buffer_size = 512}
[sampler]
use = "ebmkit-core:parallel-tempering"
sampler = {use = "mala", step_size = {use = "cosine", start_value = 0.1, end_value = 0.01}}
[dataset]
use = "gaussian-mixture"
weights = [1.0, 2.0, 3.0, 4.0]
[training]
steps = 10
data_noise.use = "sequential"
data_noise.milestones = [3]
data_noise.schedulers = [{use = "constant", value = 2}, {use = "constant", value = 1}]
[training.optimizer]
use = "adam"
betas = [0.9, 0.99]
lr = {use = "warmup", n_steps = 3, scheduler = {use = "constant", value = 0.001}}
[evaluation]
n_samples = 100
loss = {use = "score-matching"}
[chains]
on_divergence = "restart"
[hooks.early-stopping]
patience = 3
loss = {use = "dsm", sigma = 0.1}
[parts]
"model:mlp" = "ebmkit-core==1.0.0"
"sampler:x" = "ebmkit-x==2"
"""


def _planned(spec: Any) -> None:
    composer = _Composer(spec)
    composer.plan()
    composer._raise()


def read_spec(data: bytes) -> None:
    """A pipeline file: TOML, every name, key, type and bound; nothing is built."""
    _planned(read_toml(_file("spec.toml", data)))


def read_composed(data: bytes) -> None:
    """A pipeline file, of which a pipeline is made."""
    compose(read_toml(_file("spec.toml", data)))


def read_overrides(data: bytes) -> None:
    """Words of ``--set``, one a line, upon a recipe."""
    spec = load_spec("two-moons")
    for word in data.decode("utf-8", "surrogateescape").split("\n")[:50]:
        path, value = parse_assignment(word)
        spec = spec.with_overrides({path: value})
    _planned(spec)


_OVERRIDES = [
    b"sampler.step_size=1e-3\ntraining.steps=5",
    b'model.hidden=[8, 8]\nloss.sampler="@sampler"\nsampler.use=hmc',
    b"dataset.use=array\ndataset.path=../data/x.csv\nhooks.early-stopping={patience=3}",
    b'training.optimizer={use="sgd", lr={use="cosine"}}\nhooks."a.b".c=1\n"x"."y"=2',
    b"evaluation.loss=@loss\nmodel=mlp\nsampler={use='mala', step_size=0.1}\ntraining.seed=0x10",
]


# Data ------------------------------------------------------------------------------------------

_WAYS: list[dict[str, Any]] = [
    {},
    {"label": 0},
    {"label": "c"},
    {"columns": ["a", "b"]},
    {"columns": [0, 1], "standardise": True},
    {"discrete": True},
    {"discrete": True, "categories": 4, "label": "c"},
    {"dequantise": True, "held_out": 0.2},
    {"whiten": True, "validation": 0.1},
    {"separator": ";"},
    {"key": "x", "label": "y"},
    {"key": "x"},
]
"""Options of the data set; the first byte of an input chooses."""


def _rows(data: bytes, suffix: str) -> None:
    ways = _WAYS[:-2] if suffix == ".csv" else _WAYS
    options = ways[data[0] % len(ways)] if data else {}
    path = _file(f"rows{suffix}", data[1:])
    dataset = Array(path=str(path), **options)
    assert len(dataset.event_shape) >= 1
    assert dataset.n_classes is None or dataset.n_classes >= 1
    batch = dataset.draw(3, generator=torch.Generator().manual_seed(0))
    assert batch.x.shape == (3, *dataset.event_shape)
    assert batch.x.isfinite().all()


def _of_content(spoiler: spoiling.Spoiler) -> spoiling.Spoiler:
    """A spoiler of files for inputs whose first byte is none of the file's."""
    return lambda data, chance: data[:1] + spoiler(data[1:], chance)


def read_csv(data: bytes) -> None:
    """A csv file, its first byte aside, which chooses options of the data set."""
    _rows(data, ".csv")


def read_npy(data: bytes) -> None:
    """An npy file, likewise."""
    _rows(data, ".npy")


def read_npz(data: bytes) -> None:
    """An npz file, likewise."""
    _rows(data, ".npz")


def _each_way(content: bytes, ways: Sequence[int]) -> list[bytes]:
    return [bytes((way,)) + content for way in ways]


@cache
def _csv_seeds() -> list[bytes]:
    plain = b"a,b,c\n" + b"".join(b"%d.5,%d,%d\n" % (i, i * i % 7, i % 4) for i in range(12))
    whole = b"".join(b"%d,%d,%d\n" % (i % 2, i % 3 % 2, i % 2) for i in range(12))
    quoted = b'"a","b","c"\r\n1,"2",3\r\n4,"5\n",6\r\n7,8,0\r\n'
    return [
        *_each_way(plain, (0, 1, 2, 3, 4, 7, 8)),
        *_each_way(whole, (0, 1, 5)),
        *_each_way(plain.replace(b",", b";"), (0, 9)),
        *_each_way(quoted, (0, 2)),
        *_each_way(plain.replace(b".5", b""), (6,)),
    ]


def _saved(array: Any, version: tuple[int, int] | None = None) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version, allow_pickle=True)
    return content.getvalue()


@cache
def _npy_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3))
    return [
        *_each_way(_saved(x), (0, 1, 4, 7, 8)),
        *_each_way(_saved(x, (2, 0)), (0,)),
        *_each_way(_saved(np.asfortranarray(x.astype(">f4"))), (0, 4)),
        *_each_way(_saved(rng.integers(0, 2, (8, 2, 2)).astype(np.uint8)), (0, 5, 7)),
        *_each_way(_saved(np.array([["a", None]], object)), (0,)),
    ]


def _packed(way: Callable[..., None] = np.savez, **arrays: Any) -> bytes:
    content = io.BytesIO()
    way(content, **arrays)
    return content.getvalue()


@cache
def _npz_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), np.arange(8) % 3
    return [
        *_each_way(_packed(x=x, y=y), (10, 11, 0)),
        *_each_way(_packed(np.savez_compressed, x=np.zeros((8, 3)), y=y), (10,)),
        *_each_way(_packed(x=x), (0, 1, 4, 8, 11)),
        *_each_way(_packed(x=np.array([["a", None]], object)), (0,)),
    ]


# Runs ------------------------------------------------------------------------------------------


def resummed(data: bytes) -> bytes:
    """A checkpoint with the checksum that is right for what it holds now."""
    key = b'"sha256":"'
    at = data.find(key) + len(key)
    if at < len(key):
        return data
    summed = data[:at] + b"0" * 64 + data[at + 64 :]
    return data[:at] + hashlib.sha256(summed).hexdigest().encode() + data[at + 64 :]


def _with_header(data: bytes, chance: random.Random) -> bytes:
    return resummed(spoiling.safetensors_header(data, chance))


def read_checkpoint(data: bytes) -> None:
    """A checkpoint, as it is and with the checksum made right."""
    with contextlib.suppress(EbmkitError):
        checkpoint.read(_file("step-1.safetensors", data))
    checkpoint.read(_file("step-1.safetensors", resummed(data)))


@cache
def _pipelines() -> list[Pipeline]:
    """Small ones, after a step."""
    common = {"batch_size": 8, "steps": 9, "compile": "off", "device": "cpu"}
    pcd = {"use": "pcd", "sampler": "@sampler", "k_steps": 1, "buffer_size": 16}
    tables: list[dict[str, Any]] = [
        {
            "sampler": {"use": "adaptive", "sampler": {"use": "mala", "step_size": 0.01}},
            "loss": pcd,
            "dataset": "two-moons",
            "training": {**common, "ema_decay": 0.9},
        },
        {
            "sampler": {"use": "langevin", "step_size": 0.01},
            "loss": {"use": "dsm", "sigma": 0.1},
            "dataset": {"use": "rings", "n_samples": 32},
            "training": {**common, "optimizer": {"use": "sgd", "momentum": 0.9, "lr": 0.01}},
        },
    ]
    model = {"use": "mlp", "hidden": [4]}
    evaluation = {"n_samples": 10, "chain_steps": 1}
    chains = {"compile": "off"}
    made = [
        compose({"model": model, "evaluation": evaluation, "chains": chains, **table})
        for table in tables
    ]
    for pipeline in made:
        pipeline.train_step()
    return made


@cache
def _states() -> list[bytes]:
    """Their checkpoints, each after a byte that says whose it is."""
    path = _folder() / "state.safetensors"
    found = []
    for number, pipeline in enumerate(_pipelines()):
        state = {**pipeline.state_dict(), "hooks": {}, "made_by": {"torch": "x"}}
        checkpoint.write(path, {**state, "process": process_generators()})
        found.append(bytes((number,)) + path.read_bytes())
    return found


def read_run(data: bytes) -> None:
    """A run's checkpoint, its first byte aside, which chooses the run: samples are drawn from it, and
    the run goes on by a step. The checksum is made right, as by whoever means harm."""
    pipelines = _pipelines()
    pipeline = pipelines[data[0] % len(pipelines)] if data else pipelines[0]
    directory = RunDirectory(_folder() / "run")
    path = directory.path / "checkpoints" / "step-00000001.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(resummed(data[1:]))
    kept = take_newest(directory, pipeline)
    with torch.random.fork_rng(devices=[]):
        set_process_generators(kept.get("process", {}))
    moved(kept.get("made_by", {}), made_by())
    assert pipeline.step >= 0
    with contextlib.suppress(DivergenceError):
        pipeline.sample(3)
    with _first_step_from(directory):
        pipeline.train_step()


_RECORDS = b"".join(
    b'{"step": %d, "seconds": 0.%d, "loss": -1.5, "energy_gap": %d.5, "force": 2e-3, "rollbacks": 0}\n'
    % (i, i, i % 3 - 1)
    for i in range(1, 25)
)


def read_records(data: bytes) -> None:
    """A run's metrics, as diagnoses and pictures read them, and its status."""
    path = _file("metrics.jsonl", data)
    found = training_path(diagnose_records(path))
    if found is not None:
        json.dumps(attrs.asdict(found), allow_nan=False)
    numbers = metrics_writer.records(path)
    assert all(isinstance(record["step"], int) for record in numbers)
    assert metrics_writer.cut_back(path, 7, 0) == metrics_writer.cut_back(path, 7, 0)
    directory = RunDirectory(path.parent)
    (path.parent / "status.json").write_bytes(data)
    assert isinstance(directory.status(), dict)


_TOLD = {
    "status.json": b'{"status": "finished", "step": 9, "total_steps": 9, "seconds": 1.5, "reason": ""}',
    "evaluation.json": b'{"step": 9, "kl_nats": 0.5, "kl_error": 1e-3, "refused": {"mmd2": "no"}}',
    "diagnosis.json": b'{"verdict": "converged", "reason": "R", "notes": ["a"], "r_hat": {"a": 1}}',
    "metrics.jsonl": _RECORDS,
    "spec.toml": _EVERY_KIND,
    "samples.png": b"\x89PNG\r\n\x1a\n"
    + bytes.fromhex("0000000d4948445200000001000000010806000000 1f15c489".replace(" ", ""))
    + bytes.fromhex("0000000049454e44ae426082"),
}
"""Files of a run, as a report reads them."""


def read_report(data: bytes) -> None:
    """A file of a run's directory, its first byte aside, which says which one it is."""
    name = [*_TOLD][data[0] % len(_TOLD)] if data else "spec.toml"
    directory = _folder() / "told"
    directory.mkdir(exist_ok=True)
    for other, content in _TOLD.items():
        (directory / other).write_bytes(data[1:] if other == name else content)
    page, lacks = written(directory, Hooks({}))
    assert page.startswith("<!") and all(lacks)
    assert "<script>" not in page


# Plugin metadata -------------------------------------------------------------------------------

_SPLIT = b"\n=====\n"
_METADATA = [
    b"[ebmkit.samplers]\nmine = a_package.part:Part\nother = a.b:C.d [extra]\n"
    + _SPLIT
    + b"Metadata-Version: 2.1\nName: ebmkit-mine\nVersion: 1.0\nRequires-Dist: ebmkit-core>=1,<2\n"
    b"Keywords: energy,ebmkit-protocol~=1.0,<2\n",
    b"[ebmkit.recipes]\nr = ebmkit_recipes:two_moons\n[ebmkit.models]\nmlp = x:Y\n[console_scripts]\n"
    b"a = b:c\n" + _SPLIT + b"Name: ebmkit-mine\nVersion: 1.0\nRequires-Dist: torch\n\nA text.\n",
    b"[ebmkit.hooks]\nh = json:loads\n[ebmkit.datasets]\nd = json.tool:main\n"
    + _SPLIT
    + b"Name: x\nVersion: 2\nRequires-Dist: ebmkit_core[sklearn] (>=0.5); extra == 'a'\n",
]


def read_metadata(data: bytes) -> None:
    """What an installed distribution says of itself: entry points, and below a line its metadata."""
    entry_points, _, metadata = data.partition(_SPLIT)
    info = _folder() / "mine-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "entry_points.txt").write_bytes(entry_points)
    (info / "METADATA").write_bytes(metadata)
    found = importlib.metadata.PathDistribution(info)
    former = importlib.metadata.distributions
    importlib.metadata.distributions = lambda **_: iter([found])  # type: ignore[assignment]
    try:
        scanned = registry.scan()
    finally:
        importlib.metadata.distributions = former
    for cached in (sources.find_module, sources._text, sources._tree):
        cached.cache_clear()
    for component in [*scanned.checked()][:20]:
        sources.summary(component)
        sources.fault(component)
        sources.read(component)
        assert component.broken("x") and component.qualified and component.chosen
        with contextlib.suppress(EbmkitError):
            scanned.find(component.kind, component.name)
    for kind in registry.KINDS:
        scanned.names(kind)


TARGETS: dict[str, Target] = {
    "spec": Target(
        read_spec,
        _recipes,
        own=(spoiling.toml_value, spoiling.toml_value, spoiling.toml_keys),
    ),
    "composed": Target(
        read_composed,
        _recipes,
        own=(spoiling.toml_value, spoiling.toml_value, spoiling.toml_keys),
        share=0.8,
    ),
    "overrides": Target(
        read_overrides, lambda: _OVERRIDES, own=(spoiling.toml_value, spoiling.toml_keys)
    ),
    "csv": Target(read_csv, _csv_seeds, own=(spoiling.csv_cells,)),
    "npy": Target(read_npy, _npy_seeds, own=(_of_content(spoiling.npy_header),)),
    "npz": Target(read_npz, _npz_seeds, own=(_of_content(spoiling.npz_members),)),
    "checkpoint": Target(
        read_checkpoint, lambda: [state[1:] for state in _states()], own=(_with_header,), share=0.8
    ),
    "run": Target(read_run, _states, own=(_of_content(_with_header),), share=0.9),
    "records": Target(
        read_records,
        lambda: [_RECORDS, b'{"status": "finished"}\n'],
        words=(b'"rollbacks": 1', b"[]"),
    ),
    "report": Target(
        read_report,
        lambda: [bytes((number,)) + content for number, content in enumerate(_TOLD.values())],
        words=(b"<script>", b"</style>", b"{{ 1 }}", b"{% x %}", b"[1e999]", b'{"a": {"a": {}}}'),
    ),
    "metadata": Target(
        read_metadata,
        lambda: _METADATA,
        words=(b"\nRequires-Dist: ebmkit-core", b"[ebmkit.models]\n", b"~=", b">=1,<2", b" : "),
    ),
}
