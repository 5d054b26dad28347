"""One of two processes, started by torchrun: what it finds is written to a file, one JSON line a check.

python -m torch.distributed.run --nproc-per-node 2 tests/ebmkit/parallel/worker.py FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ebmkit
from ebmkit import checkpoint
from ebmkit.errors import DivergenceError, EbmkitError, UserError
from ebmkit.hooks import Hooks, Run
from ebmkit.ranks import Ranks
from ebmkit.starting import started

sys.path.insert(0, str(Path(__file__).parent))
from gradients import gradients
from small_runs import LONGER, SPEC, FewRows, cut_after, same_tree

FOLDER = Path(sys.argv[1])


def told_to_all() -> Iterator[dict[str, Any]]:
    """What fails in one process is raised in all, with its rank."""
    ranks = Ranks.present()
    for kind in (DivergenceError, UserError, ZeroDivisionError):
        try:
            with ranks.together():
                if ranks.rank == 1:
                    raise kind("too far")
        except Exception as error:
            raised: Any = error
        yield {
            "kinds": ranks.gathered(type(raised).__name__),
            "said": ranks.gathered(str(raised)),
            "in_step": ranks.gathered(ranks.in_step(raised)),
        }
    with ranks.together(lambda: [ranks.rank == 1, False, True]) as flags:
        pass
    yield {"flags": ranks.gathered(flags)}


def metrics() -> Iterator[dict[str, Any]]:
    """Means, sums of what counts, and of what not all have."""
    ranks = Ranks.present()
    mine = {
        "loss": torch.tensor(1.0 + ranks.rank),
        "chains_restarted": torch.tensor(ranks.rank + 2),
    }
    if ranks.lead:
        mine["force"] = torch.tensor(5.0)
    reduced = ranks.reduced(mine)
    yield {name: value.item() for name, value in reduced.items()}


def draws() -> Iterator[dict[str, Any]]:
    """An epoch's rows are shared out, and the next one's order is common too."""
    pipeline = ebmkit.compose(SPEC, dataset=FewRows(), **{"training.batch_size": 3})
    ranks, feed = pipeline.ranks, pipeline.trainer.feed
    rows = [ranks.gathered(feed.draw().x[:, 0]) for _ in range(8)]
    yield {"rows": [[part.tolist() for part in parts] for parts in rows]}
    noise = ranks.gathered(torch.randn(4, generator=pipeline.trainer.objective.generator))
    yield {"streams_differ": not torch.equal(*noise)}


class Watch:
    """What the hooks of a run saw, and what they ask for."""

    def __init__(self, **asks: int) -> None:
        self.asks = asks
        self.steps: list[int] = []

    @ebmkit.hookimpl
    def step_end(self, run: Run, metrics: Mapping[str, Tensor]) -> None:
        self.steps.append(run.step)
        if run.step == self.asks.get("keep"):
            run.pipeline.keep_weights()
        if run.step == self.asks.get("stop"):
            run.stop("enough")


def hooks() -> Iterator[dict[str, Any]]:
    """They run in the first process alone, and what they ask for is done in all."""
    watch = Watch(keep=2, stop=4)
    pipeline = ebmkit.compose(SPEC)
    run = pipeline.fit(hooks=Hooks({"watch": watch}))
    gathered = pipeline.ranks.gathered
    yield {
        "steps": gathered(watch.steps),
        "ended": gathered([run.step, run.stopped, pipeline.trainer.kept_step]),
        "weights_equal": _equal_weights(pipeline),
    }


def _equal_weights(pipeline: Any) -> bool:
    parts = pipeline.ranks.gathered([p.detach() for p in pipeline.trainer.module.parameters()])
    return same_tree(parts[0], parts[1])


class Normed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.norm = torch.nn.BatchNorm1d(2)
        self.weight = torch.nn.Parameter(torch.randn(2, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(self.norm(x)) * self.weight).sum(1) + x.square().sum(1) / 2


def buffers() -> Iterator[dict[str, Any]]:
    """Statistics of the first process's batches are what all draw chains with."""
    pipeline = ebmkit.compose(SPEC, model=Normed(), loss={"use": "cd"})
    for _ in range(3):
        pipeline.train_step()
    objective, seen = pipeline.trainer.objective, []
    draw = objective.draw

    def watched(batch: Any) -> Any:
        seen.append(pipeline.trainer.module.norm.running_mean.clone())
        return draw(batch)

    objective.draw = watched
    pipeline.train_step()
    yield {"equal": torch.equal(*pipeline.ranks.gathered(seen[0])), "moved": bool(seen[0].any())}


def resumed() -> Iterator[dict[str, Any]]:
    """Two go on where two were, bit for bit; and where one was."""
    pipeline = ebmkit.compose(SPEC)
    whole = FOLDER / "two"
    pipeline.fit(out=whole, hooks=Hooks({}))
    ranks = pipeline.ranks
    end = checkpoint.read(whole / "checkpoints" / "step-00000012.safetensors")
    cut = FOLDER / "two-cut"
    with ranks.together():
        if ranks.lead:
            cut_after(whole, cut, 6)
            shutil.copytree(cut, FOLDER / "two-for-one")
    run = ebmkit.resume(cut, hooks=Hooks({}))
    again = checkpoint.read(cut / "checkpoints" / "step-00000012.safetensors")
    yield {
        "step": run.step,
        "same": [
            name for name in end if name != "made_by" and not same_tree(end[name], again[name])
        ],
        "weights_equal": _equal_weights(run.pipeline),
        "slots": ranks.gathered(len(pipeline.trainer.objective.state.x)),
        "shares_differ": not torch.equal(*ranks.gathered(pipeline.trainer.objective.state.x)),
    }
    one = ebmkit.load(FOLDER / "one-cut")
    kept = checkpoint.read(FOLDER / "one-cut" / "checkpoints" / "step-00000006.safetensors")
    shares = ranks.gathered(one.trainer.objective.state.x)
    streams = ranks.gathered([g.get_state() for _, g in one.trainer.generators()])
    run = ebmkit.resume(FOLDER / "one-cut", hooks=Hooks({}))
    yield {
        "step": run.step,
        "joined": torch.equal(torch.cat(shares), kept["loss"].x),
        "first_goes_on": torch.equal(streams[0][0], kept["generators"]["loss"]),
        "streams_differ": not torch.equal(streams[0][0], streams[1][0]),
        "order_common": torch.equal(streams[0][2], streams[1][2]),
        "weights_equal": _equal_weights(run.pipeline),
    }


def sharded() -> Iterator[dict[str, Any]]:
    """Weights that are shared out are trained as whole ones are, and kept whole."""
    more = {"training.gradient_clip": 0.1, "training.sharding": "full"}
    ways: dict[str, dict[str, Any]] = {"eager": {}, "compiled": {"training.compile": "on"}}
    for way, changes in ways.items():
        alike = ebmkit.compose(SPEC, **{**more, **changes, "training.sharding": "none"})
        alike.fit(hooks=Hooks({}))
        out = FOLDER / f"sharded-{way}"
        pipeline = ebmkit.compose(SPEC, **more, **changes)
        pipeline.fit(out=out, hooks=Hooks({"watch": Watch(keep=3)}))
        trainer, ranks = pipeline.trainer, pipeline.ranks
        cut = FOLDER / f"sharded-{way}-cut"
        with ranks.together():
            if ranks.lead:
                cut_after(out, cut, 6)
        ebmkit.resume(cut, hooks=Hooks({"watch": Watch()}))
        last = "checkpoints/step-00000012.safetensors"
        whole, again = checkpoint.read(out / last), checkpoint.read(cut / last)
        moments = trainer.optimizer.state[trainer.parameters[0]]["exp_avg"]
        parts = ("weights", "optimizer", "loss", "generators")
        yield {
            "of": way,
            "apart": _apart(alike.trainer.module, trainer.module),
            "averages_apart": _apart(alike.trainer.averaged, trainer.averaged),
            "moved": _apart(alike.trainer.module, ebmkit.compose(SPEC).trainer.module),
            "held": [moments.to_local().numel(), moments.numel()],
            "decision": trainer.objective.computation.decision,
            "other": [name for name in parts if not same_tree(whole[name], again[name])],
            "weights_equal": _equal_weights(pipeline),
        }


def sharded_fails() -> Iterator[dict[str, Any]]:
    """A step that is not taken leaves the shares as they were; what has no shares is refused."""
    pipeline = ebmkit.compose(SPEC, **{"training.sharding": "full"})
    pipeline.train_step()
    objective, model = pipeline.trainer.objective, pipeline.trainer.module
    draw, weights = objective.draw, [p.detach().clone() for p in model.parameters()]

    def fails(batch: Any) -> Any:
        if pipeline.ranks.rank == 1:
            raise DivergenceError("on purpose")
        return draw(batch)

    objective.draw = fails  # type: ignore[method-assign]
    try:
        pipeline.train_step()
    except DivergenceError as error:
        said = str(error)
    objective.draw = draw  # type: ignore[method-assign]
    undone = same_tree(weights, list(model.parameters()))
    pipeline.train_step()
    # As a hook might, in the first process alone: it must not take the others by surprise.
    names = list(model.state_dict()) if pipeline.ranks.lead else []
    pipeline.train_step()
    try:
        ebmkit.compose(SPEC, model=Single(), **{"training.sharding": "full"})
    except UserError as error:
        refused = str(error)
    yield {
        "said": said,
        "undone": undone,
        "names": len(names),
        "ended": [pipeline.step, _equal_weights(pipeline)],
        "refused": refused,
    }


class Single(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.square().sum(1)


def _apart(one: Any, other: Any) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max().detach()) for a, b in pairs)


def calm() -> Iterator[dict[str, Any]]:
    """A run that nothing happens to."""
    run = ebmkit.compose(LONGER).fit(out=FOLDER / "calm", hooks=Hooks({}))
    yield {"step": run.step}


def rolled_back() -> Iterator[dict[str, Any]]:
    """A divergence in one process takes all back."""
    for out in (None, FOLDER / "back"):
        pipeline = ebmkit.compose(
            SPEC, **{"training.on_divergence": "rollback", "training.checkpoint_every": 3}
        )
        objective, ranks = pipeline.trainer.objective, pipeline.ranks
        draw, failed = objective.draw, []

        def once(
            batch: Any, draw: Any = draw, failed: Any = failed, objective: Any = objective
        ) -> Any:
            found = draw(batch)
            if objective.ranks.rank == 1 and objective.step == 7 and not failed:
                failed.append(True)
                raise DivergenceError("on purpose", step=7)
            return found

        objective.draw = once  # type: ignore[method-assign]
        run = pipeline.fit(out=out, hooks=Hooks({}))
        yield {
            "step": run.step,
            "rollbacks": ranks.gathered(pipeline.trainer.rollbacks),
            "weights_equal": _equal_weights(pipeline),
            "told": [line for line in run.notices if "rollback 1" in line and "rank 1" in line]
            != [],
        }


def refused() -> Iterator[dict[str, Any]]:
    """What cannot be shared out is said before the first step."""
    for changes in (
        {"loss.buffer_size": 33},
        {"loss.buffer_size": 22},
        {"training.batch_size": 20, "dataset": FewRows()},
    ):
        try:
            ebmkit.compose(SPEC, **changes)
        except EbmkitError as error:
            yield {"said": str(error)}


CHECKS = (
    told_to_all,
    metrics,
    draws,
    hooks,
    buffers,
    resumed,
    sharded,
    sharded_fails,
    calm,
    rolled_back,
    refused,
    gradients,
)


def main() -> None:
    ranks = Ranks.present()
    assert ranks.size == 2
    for check in CHECKS:
        for found in check():
            if ranks.lead:
                with (FOLDER / "found.jsonl").open("a") as file:
                    file.write(json.dumps({"check": check.__name__, **found}) + "\n")


if __name__ == "__main__":
    with started():
        main()
