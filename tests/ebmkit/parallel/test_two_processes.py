"""Two real processes under torchrun, against one process and against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ebmkit
from ebmkit import checkpoint
from ebmkit.hooks import Hooks

from .small_runs import same_tree


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the processes found, by check."""
    by_check: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "found.jsonl").read_text().splitlines():
        record = json.loads(line)
        by_check.setdefault(record.pop("check"), []).append(record)
    return by_check


def test_gradients_are_those_of_one_process_on_the_joined_batch(found: Any) -> None:
    records = found["gradients"]
    assert len(records) == 11
    assert sum(record["compile"] == "on" for record in records) == 5
    for record in records:
        assert record["gradient"] > 0.01, record
        assert record["error"] <= 1e-6, record
        assert record["error"] <= 1e-5 * record["gradient"], record
        assert record["loss_error"] <= 1e-6, record


def test_what_fails_in_one_fails_in_all(found: Any) -> None:
    divergence, mistake, fault, flags = found["told_to_all"]
    assert divergence["kinds"] == ["DivergenceError"] * 2
    assert mistake["kinds"] == ["UserError"] * 2
    assert divergence["said"] == mistake["said"] == ["rank 1: too far"] * 2
    assert fault["kinds"] == ["EbmkitError", "ZeroDivisionError"]
    assert fault["said"] == ["rank 1: ZeroDivisionError: too far", "too far"]
    assert all(all(r["in_step"]) for r in (divergence, mistake, fault))
    assert flags["flags"] == [[True, False, True]] * 2


def test_metrics_are_means_and_counts_sums(found: Any) -> None:
    assert found["metrics"] == [{"loss": 1.5, "chains_restarted": 5, "force": 5.0}]


def test_an_epoch_is_shared_out(found: Any) -> None:
    rows, streams = found["draws"]
    epochs: list[list[float]] = [[], [], []]
    for step, parts in enumerate(rows["rows"]):
        epochs[step // 3] += [row for part in parts for row in part]
    for epoch in epochs[:2]:  # 3 steps of 2 × 3 of 20 rows
        assert len(epoch) == len(set(epoch)) == 18
    assert epochs[0] != epochs[1]
    assert streams["streams_differ"]


def test_hooks_run_in_the_first_and_are_obeyed_by_all(found: Any) -> None:
    (record,) = found["hooks"]
    assert record["steps"] == [[1, 2, 3, 4], []]
    assert record["ended"] == [[4, "enough", 2]] * 2
    assert record["weights_equal"]


def test_buffers_are_the_first_one_s(found: Any) -> None:
    assert found["buffers"] == [{"equal": True, "moved": True}]


def test_two_go_on_bit_for_bit_where_two_were(found: Any) -> None:
    two, _ = found["resumed"]
    assert two["step"] == 12
    assert two["same"] == []
    assert two["weights_equal"]
    assert two["slots"] == [16, 16]
    assert two["shares_differ"]


def test_two_go_on_where_one_was(found: Any) -> None:
    _, one = found["resumed"]
    assert one == {
        "step": 12,
        "joined": True,
        "first_goes_on": True,
        "streams_differ": True,
        "order_common": True,
        "weights_equal": True,
    }


# Of the number of threads, which is another where these tests run with more than one.
@pytest.mark.filterwarnings("ignore::ebmkit.provenance.RunWarning")
def test_one_goes_on_where_two_were(folder: Path) -> None:
    run = folder / "two-for-one"
    kept = checkpoint.read(run / "checkpoints" / "step-00000006.safetensors")
    (other,) = kept["others"]
    pipeline = ebmkit.load(run)
    state = pipeline.trainer.objective.state
    assert torch.equal(state.x, torch.cat([kept["loss"].x, other["loss"].x]))
    assert torch.equal(state.age, torch.cat([kept["loss"].age, other["loss"].age]))
    assert len(state.x) == 32
    for name, generator in pipeline.trainer.generators():
        assert torch.equal(generator.get_state(), kept["generators"][name])
    assert pipeline.trainer.module is not None
    assert same_tree(dict(pipeline.trainer.module.state_dict()), dict(kept["weights"]["trained"]))
    run_on = ebmkit.resume(run, hooks=Hooks({}))
    assert run_on.step == 12
    assert checkpoint.read(run / "checkpoints" / "step-00000012.safetensors")["others"] == []


def test_shared_out_weights_are_trained_as_whole_ones(found: Any, folder: Path) -> None:
    trained = found["sharded"]
    assert [record["of"] for record in trained] == ["eager", "compiled"]
    assert trained[1]["decision"] == "compiled"
    for record in trained:
        assert record["moved"] > 0.02
        assert record["apart"] < 1e-5
        assert record["averages_apart"] < 1e-5
        assert record["held"] == [8, 16]
        assert record["other"] == []
        assert record["weights_equal"]
        one = ebmkit.load(folder / f"sharded-{record['of']}", **{"training.compile": "off"})
        assert one.step == 12
        one.train_step()


def test_a_step_of_shares_that_is_not_taken_is_undone(found: Any) -> None:
    (record,) = found["sharded_fails"]
    assert record["said"] == "rank 1: on purpose"
    assert record["undone"]
    assert record["names"] == 4
    assert record["ended"] == [3, True]
    assert "training.sharding: a parameter without dimensions (scale)" in record["refused"]


def test_a_divergence_in_one_takes_all_back(found: Any) -> None:
    in_memory, in_directory = found["rolled_back"]
    assert in_memory == in_directory
    assert in_memory == {"step": 12, "rollbacks": [1, 1], "weights_equal": True, "told": True}


def test_what_cannot_be_shared_out_is_refused(found: Any) -> None:
    odd, few, rows = (record["said"] for record in found["refused"])
    assert odd.startswith("loss.buffer_size: 33 slots cannot be shared alike by 2 processes")
    assert "state at least 24" in few
    assert rows.startswith("training.batch_size: 20 for each of 2 processes is more than")
