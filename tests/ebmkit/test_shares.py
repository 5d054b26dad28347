"""What processes hold alone, shared out anew where there is another number of them."""

from __future__ import annotations

from threading import Thread
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore

from ebmkit.devices import own_device
from ebmkit.errors import DeviceError
from ebmkit.seeds import stream
from ebmkit.shares import own_process, share, share_among, summed
from ebmkit.starting import _agreed_name


class Rows(NamedTuple):
    x: Tensor


class Splitting:
    def split(self, state: Rows, parts: int) -> list[Rows]:
        return [Rows(part) for part in state.x.chunk(parts)]

    def joined(self, states: list[Rows]) -> Rows:
        return Rows(torch.cat([state.x for state in states]))


NUMBERS = torch.arange(12.0)


def numbers(state: Any) -> list[float]:
    found: list[float] = state.x.tolist()
    return found


def test_a_whole_is_shared_and_joined_and_shared_anew() -> None:
    loss: Any = Splitting()
    thirds = [share(loss, Rows(NUMBERS), rank, 3) for rank in range(3)]
    assert [numbers(part) for part in thirds] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [numbers(share_among(loss, thirds, r, 3)) for r in range(3)] == list(
        map(numbers, thirds)
    )
    assert numbers(share_among(loss, thirds, 0, 1)) == NUMBERS.tolist()
    assert numbers(share_among(loss, thirds, 1, 2)) == [6, 7, 8, 9, 10, 11]
    assert numbers(share_among(loss, [Rows(NUMBERS)], 3, 4)) == [9, 10, 11]


def test_a_loss_that_cannot_say_how_keeps_states_whole() -> None:
    loss: Any = object()
    assert share(loss, Rows(NUMBERS), 1, 3) == Rows(NUMBERS)
    states = [Rows(NUMBERS), Rows(-NUMBERS)]
    assert [share_among(loss, states, rank, 3) for rank in range(3)] == [*states, states[0]]
    assert share_among(loss, states, 0, 1) == states[0]
    # Before the first step there is nothing to share.
    assert share_among(Splitting(), [None, None], 2, 3) is None  # type: ignore[arg-type]


def test_counts_are_summed_by_name() -> None:
    assert summed([{"a": 1}, {}, {"a": 2, "b": 3}]) == {"a": 3, "b": 3}
    assert summed([]) == {}


def test_a_new_process_has_no_generators_of_torch_to_go_on_with() -> None:
    kept = {"process": {"cpu": 1}, "others": [{"process": {"cpu": 2}}]}
    assert [own_process(kept, rank) for rank in range(3)] == [{"cpu": 1}, {"cpu": 2}, {}]


def test_streams_differ_by_rank_and_step() -> None:
    seeds = [stream(3, "loss").initial_seed()]
    seeds += [stream(3, "loss", rank=rank).initial_seed() for rank in (0, 1, 2)]
    seeds += [stream(3, "loss", rank=1, step=step).initial_seed() for step in (0, 7)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 5


def test_processes_that_are_started_anew_agree_on_a_name_of_their_own() -> None:
    store = HashStore()
    names: list[dict[int, str]] = []
    for _ in range(3):  # the store keeps what was agreed on before
        found: dict[int, str] = {}

        def agree(rank: int, found: dict[int, str] = found) -> None:
            found[rank] = _agreed_name(store, rank, 3)

        threads = [Thread(target=agree, args=(rank,), daemon=True) for rank in (2, 1, 0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        names.append(found)
    assert all(len(found) == 3 and len(set(found.values())) == 1 for found in names)
    assert len({found[0] for found in names}) == 3


@pytest.mark.parametrize(
    ("device", "said"), [("mps", "set it to cpu"), ("cuda:1", "set it to cuda")]
)
def test_devices_that_processes_cannot_share_are_refused(device: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        own_device(torch.device(device), 0)
    assert own_device(torch.device("cpu"), 1) == torch.device("cpu")
