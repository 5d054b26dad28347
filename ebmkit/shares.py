"""What each process of a run holds alone, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmkit.protocols import Loss, State
from ebmkit.seeds import process_generators, stream

if TYPE_CHECKING:
    from ebmkit.trainer import Trainer

ORDER = "order"
"""The purpose of draws that all processes make alike: in which order data are gone through."""


def share(loss: Loss, state: State, rank: int, processes: int) -> State:
    """A process's share of a loss's state: all of it where the loss does not say how to share it."""
    split = getattr(loss, "split", None)
    return state if processes == 1 or split is None else split(state, processes)[rank]


def share_among(loss: Loss, states: Sequence[State], rank: int, processes: int) -> State:
    """A process's share of what other processes, as many as there are states, held before. A loss that
    does not say how its states are joined goes on in process r from that of r modulo their number."""
    if len(states) == processes:
        return states[rank]
    if not (hasattr(loss, "split") and hasattr(loss, "joined")) or None in states:
        return states[rank % len(states)]
    return share(loss, states[0] if len(states) == 1 else loss.joined(states), rank, processes)


def summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Counts of several processes, by name."""
    names = {name: None for one in counts for name in one}
    return {name: sum(one.get(name, 0) for one in counts) for name in names}


def held_alone(trainer: Trainer) -> dict[str, Any]:
    """What this process alone holds of all that the next step needs."""
    return {
        "loss": trainer.objective.state,
        "chains": trainer.objective.conduct.counts(),
        "generators": {name: g.get_state() for name, g in trainer.generators()},
        # Not ours to draw from, but a model's dropout does.
        "process": process_generators(),
    }


def own_process(kept: Mapping[str, Any], rank: int) -> Mapping[str, Any]:
    """The states of torch's own generators in a process, as kept; empty where it took no part."""
    states = [kept, *kept.get("others", ())]
    found: Mapping[str, Any] = states[rank].get("process", {}) if rank < len(states) else {}
    return found


def take_over(trainer: Trainer, states: Sequence[Mapping[str, Any]]) -> None:
    """Go on from what processes held alone, as many as there are states.

    Where there are more processes now, the draws of those that are new come from streams of their own
    that begin at this step.
    """
    rank, size = trainer.ranks.rank, trainer.ranks.size
    objective = trainer.objective
    before = [state["loss"] for state in states]
    objective.state = share_among(objective.loss, before, rank, size)
    counts = [state.get("chains", {}) for state in states]
    if len(states) == size:
        objective.conduct.load_counts(counts[rank])
    elif trainer.ranks.lead:
        objective.conduct.load_counts(summed(counts))
    mine = states[rank]["generators"] if rank < len(states) else {}
    for name, generator in trainer.generators():
        if name in mine:
            generator.set_state(mine[name].cpu())
        else:
            own = 0 if name == ORDER else rank
            fresh = stream(
                trainer.training.seed, name, generator.device, rank=own, step=trainer.done
            )
            generator.set_state(fresh.get_state())
