"""The tables of a run that are no parts: how it trains, runs its chains, and is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs import field
from attrs.validators import and_, ge, gt, in_, le, lt, optional

from ebmkit.fields import doc, scheduled
from ebmkit.protocols import Loss, Sampler, Scheduler


@attrs.frozen
class Training:
    """The training loop of a run."""

    steps: int | None = field(
        default=None,
        validator=optional(ge(1)),
        metadata=doc("training steps; 1000 where neither steps nor epochs are given"),
    )
    epochs: int | None = field(
        default=None,
        validator=optional(ge(1)),
        metadata=doc("passes over a finite dataset, in place of steps"),
    )
    batch_size: int = field(default=256, validator=ge(1), metadata=doc("positives a step"))
    optimizer: Mapping[str, Any] = field(
        factory=lambda: {"use": "adam", "lr": 1e-3},
        metadata=doc(
            "`use` names a torch.optim class, the other keys are its; lr may be a schedule"
        ),
    )
    gradient_clip: float | None = field(
        default=None, validator=optional(gt(0)), metadata=doc("largest norm of the gradient")
    )
    ema_decay: float | None = field(
        default=None,
        validator=optional(and_(gt(0), lt(1))),
        metadata=doc("decay a step of the weights' moving average, which is then what is judged"),
    )
    data_noise: float | Scheduler = field(
        default=0.0,
        validator=scheduled(ge(0)),
        metadata=doc("standard deviation of Gaussian noise added to the positives"),
    )
    precision: Literal["float32", "bf16"] = field(
        default="float32",
        validator=in_(("float32", "bf16")),
        metadata=doc("bf16 runs the loss under autocast; weights stay float32"),
    )
    sharding: Literal["none", "full"] = field(
        default="none",
        validator=in_(("none", "full")),
        metadata=doc(
            "what several processes hold of weights and optimizer between steps: each all of it, or a "
            "share, where the optimizer's state does not fit; with one process there is no difference"
        ),
    )
    compile: Literal["auto", "on", "off"] = field(
        default="auto",
        validator=in_(("auto", "on", "off")),
        metadata=doc(
            "whether loss and gradient are compiled; auto does so where the run's length pays for it"
        ),
    )
    on_divergence: Literal["stop", "rollback"] = field(
        default="stop",
        validator=in_(("stop", "rollback")),
        metadata=doc(
            "what a non-finite loss, gradient or chain, or too large a gap, does to the run: it stops, "
            "or goes back to its last checkpoint with a smaller learning rate and new draws"
        ),
    )
    energy_gap_limit: float = field(
        default=1e6,
        validator=gt(0),
        metadata=doc("largest |energy_gap| in nats that is no divergence"),
    )
    rollback_factor: float = field(
        default=0.2,
        validator=and_(gt(0), le(1)),
        metadata=doc("what each rollback multiplies the learning rate by"),
    )
    max_rollbacks: int = field(
        default=5, validator=ge(1), metadata=doc("rollbacks after which a run gives up")
    )
    log_every: int = field(
        default=10, validator=ge(1), metadata=doc("steps between metric records")
    )
    evaluate_every: int | None = field(
        default=None, validator=optional(ge(1)), metadata=doc("steps between evaluations")
    )
    checkpoint_every: int = field(
        default=500, validator=ge(1), metadata=doc("steps between checkpoints")
    )
    keep_checkpoints: int = field(default=3, validator=ge(1), metadata=doc("checkpoints kept"))
    device: str = field(default="auto", metadata=doc("auto, cpu, cuda, cuda:i or mps"))
    deterministic: bool = field(
        default=False,
        metadata=doc(
            "only algorithms that give the same bits each time; an error where there is none"
        ),
    )
    seed: int = field(
        default=0, validator=and_(ge(0), le(2**63 - 1)), metadata=doc("seeds every draw of the run")
    )


@attrs.frozen
class Chains:
    """How chains are run, in training and for judging."""

    compile: Literal["auto", "off", "step", "chunk"] = field(
        default="auto",
        validator=in_(("auto", "off", "step", "chunk")),
        metadata=doc(
            "whether steps of chains are compiled: off, one a graph, as a chunk of many a graph, or "
            "where the run's length pays for it"
        ),
    )
    on_divergence: Literal["stop", "restart", "freeze"] = field(
        default="stop",
        validator=in_(("stop", "restart", "freeze")),
        metadata=doc(
            "what becomes of a chain whose next point, energy or force is not finite: the run stops, "
            "or the chain begins anew, or stays at its last finite point"
        ),
    )
    restart_from: Literal["data", "base", "buffer"] = field(
        default="data",
        validator=in_(("data", "base", "buffer")),
        metadata=doc(
            "where it begins anew: at a row of data, at normal noise with their mean and standard "
            "deviation, or at another persistent chain"
        ),
    )


@attrs.frozen
class Evaluation:
    """How a trained model is sampled and judged."""

    n_samples: int = field(default=2000, validator=ge(2), metadata=doc("chains drawn to judge"))
    chain_steps: int = field(default=1000, validator=ge(0), metadata=doc("steps of each chain"))
    loss: Loss | None = field(
        default=None,
        metadata=doc("a loss to report of the data to judge against, as it is at the last step"),
    )
    annealing_steps: int = field(
        default=0,
        validator=ge(0),
        metadata=doc("temperatures by which annealing brackets log Z; 0 for no brackets"),
    )
    annealing_chains: int = field(
        default=200, validator=ge(2), metadata=doc("annealed chains in each direction")
    )
    annealing_sampler: Sampler | None = field(
        default=None,
        metadata=doc("what moves annealed chains, an exact one; the pipeline's where unset"),
    )


TABLES: dict[str, type] = {"training": Training, "chains": Chains, "evaluation": Evaluation}
