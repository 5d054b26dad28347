"""What trackers kept, read back by their own means where they have some."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

BLOCK, HEAD = 32768, 7
"""Bytes of a block of a W&B file, which is a log in LevelDB's format, and of what stands before a
piece of a record and at the beginning of the file."""


class Kept(NamedTuple):
    """A tracked run."""

    key: str
    numbers: dict[str, list[tuple[int, float]]]
    """(step, number) by name, in the order in which they were written."""
    spec: Any
    pictures: set[str]
    ended: list[str]
    """How each of its processes ended."""


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow's, which takes it seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").get_experiment("0")
    return path


@pytest.fixture
def kept() -> Callable[[str, Path], list[Kept]]:
    """The tracked runs that a tracker keeps in a folder, in the order in which they began."""
    readers = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}
    return lambda name, folder: readers[name](folder)


def tensorboard(folder: Path) -> list[Kept]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for place in sorted({path.parent for path in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(place), {"scalars": 0, "images": 0, "tensors": 0})
        events.Reload()
        tags = events.Tags()
        numbers = {n: [(e.step, e.value) for e in events.Scalars(n)] for n in tags["scalars"]}
        texts = {
            tag: [e.tensor_proto.string_val[0].decode() for e in events.Tensors(tag)]
            for tag in tags["tensors"]
        }
        spec = texts["spec.toml/text_summary"][-1]
        ended = texts["status/text_summary"]
        pictures = {tag.removeprefix("pictures/") for tag in tags["images"]}
        found.append(Kept(place.name, numbers, spec, pictures, ended))
    return found


def mlflow(folder: Path) -> list[Kept]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("ebm")
    assert experiment is not None
    found = []
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]):
        key = run.info.run_id
        numbers = {
            name: [(m.step, m.value) for m in client.get_metric_history(key, name)]
            for name in run.data.metrics
        }
        files = {artifact.path for artifact in client.list_artifacts(key, "pictures")}
        spec = Path(folder, key, "artifacts", "spec.toml").read_text(encoding="utf-8")
        pictures = {Path(name).stem for name in files}
        ended = [run.data.tags["ebmkit.status"], run.info.status]
        found.append(Kept(key, numbers, (run.data.params, spec), pictures, ended))
    return found


def wandb(folder: Path) -> list[Kept]:
    """Offline, each process that worked on a run leaves a file of its own; `wandb sync` joins those of
    one id."""
    found: dict[str, Kept] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        key = path.stem.removeprefix("run-")
        kept = found.setdefault(key, Kept(key, {}, {}, set(), []))
        tags, status = [], ""
        for record in _records(path):
            if record.HasField("history"):
                _row(kept, record.history.item)
            if record.HasField("run"):
                config = record.run.config.update
                kept.spec.update({_name(i): json.loads(i.value_json) for i in config})
                tags = list(record.run.tags) or tags
            for item in record.summary.update:
                if _name(item) == "status":
                    status = json.loads(item.value_json)
        assert tags == [status]
        kept.ended.append(status)
    return list(found.values())


def _row(kept: Kept, items: Any) -> None:
    row = {_name(i): json.loads(i.value_json) for i in items}
    for name, value in row.items():
        if name.startswith(("training/", "evaluation/")):
            kept.numbers.setdefault(name, []).append((row["step"], value))
        elif name.endswith("._type") and value == "image-file":
            kept.pictures.add(name.removeprefix("pictures/").removesuffix("._type"))


def _name(item: Any) -> str:
    return ".".join(item.nested_key) or str(item.key)


def _records(path: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data.startswith(b":W&B")
    at, held = HEAD, b""
    while at + HEAD <= len(data):
        if (left := BLOCK - at % BLOCK) < HEAD:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        held += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record
