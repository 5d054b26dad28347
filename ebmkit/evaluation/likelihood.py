"""log Z of a model, exact or bracketed, and the data's log likelihood."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import field
from attrs.validators import ge
from torch import Tensor

from ebmkit.errors import DivergenceError, EvaluationError, UserError
from ebmkit.evaluation.annealing import forward, lower_side, mover, reverse, upper_side
from ebmkit.evaluation.bases import States, base_for
from ebmkit.evaluation.path import Path, ladder
from ebmkit.evaluation.quadrature import log_partition
from ebmkit.layers import offered
from ebmkit.protocols import Batch, Energy, Model, Sampler

if TYPE_CHECKING:
    from ebmkit.pipeline import Pipeline

STATES = 2**16
"""States of a discrete model up to which they are summed over one by one."""
_EFFECTIVE, _EFFECTIVE_SHARE = 10, 0.05
"""Effective number of weights, of all and of each chain, from which their mean's error is to be
trusted: where few chains hold nearly all the weight, it says little of those that none has found."""


@attrs.frozen(eq=False)
class Annealing:
    """How log Z is bracketed by annealed importance sampling."""

    steps: int = field(validator=ge(1))
    """Inverse temperatures on the way from base to model, the last one included."""
    chains: int = field(validator=ge(2))
    sampler: Sampler | None = field()
    """What moves the chains; it must be ``exact``."""
    generator: torch.Generator = field()
    training_step: int = field(default=0)
    """Where parameters scheduled on the training clock are read."""

    @classmethod
    def asked(cls, pipeline: Pipeline) -> Annealing | None:
        """As a pipeline's [evaluation] states it; None where no brackets are asked for."""
        said = pipeline.evaluation
        if not said.annealing_steps:
            return None
        return cls(
            steps=said.annealing_steps,
            chains=said.annealing_chains,
            sampler=said.annealing_sampler or pipeline.sampler,
            generator=pipeline.generator("annealing"),
            training_step=max(pipeline.step - 1, 0),
        )


def likelihood(
    model: Model,
    data: Batch,
    samples: Batch | str,
    known: Mapping[str, Any],
    annealing: Annealing | None = None,
    states: States | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The numbers on log Z and on the data's log likelihood, and why some are missing.

    ``log_z`` with its ``log_z_method``: "exact" by the model's formula or by a sum over all states,
    "quadrature" in 2-D (taken from ``known`` where that has it), or "annealing" where the weights
    are those of enough chains. ``log_likelihood`` = mean over rows of −E(x) − log Z, in nats a row;
    its error, None of a single row, is that of the mean over rows and that of log Z. ``annealing``
    adds brackets, see ``bracket``. ``states`` are of the kind that the model says where nothing
    else is said.
    """
    if data.condition is not None:
        return {}, {"log_z": "a conditional model has a normaliser for each condition"}
    states = States.of(model) if states is None else states
    numbers: dict[str, Any] = {}
    refused: dict[str, str] = {}
    try:
        numbers |= _exact(model, data.x, known, states)
    except UserError as error:
        refused["log_z"] = str(error)
    if annealing is not None:
        try:
            found, missing = bracket(model, data.x, samples, annealing, states)
        except (UserError, DivergenceError) as error:
            refused["log_z_lower"] = refused["log_z_upper"] = str(error)
        else:
            refused |= missing
            if "log_z" not in numbers:
                if collapsed := _collapsed(found):
                    refused["log_z"] = collapsed
                else:
                    refused.pop("log_z", None)
                    numbers["log_z"] = found["log_z_forward"]
                    numbers["log_z_error"] = found["log_z_forward_error"]
                    numbers["log_z_method"] = "annealing"
            numbers |= found
    with torch.no_grad():
        energies = model(data.x).double()
    row = -float(energies.mean())
    if not math.isfinite(row):
        return numbers, {**refused, "log_likelihood": "energies of the data are not finite"}
    if "log_z" in numbers:
        numbers["log_likelihood"] = row - numbers["log_z"]
        numbers["log_likelihood_error"] = None  # One row does not say how rows scatter.
        if len(energies) > 1:
            of_rows = float(energies.std()) / math.sqrt(len(energies))
            numbers["log_likelihood_error"] = math.hypot(of_rows, numbers.get("log_z_error", 0.0))
    for bound, other in (("lower", "upper"), ("upper", "lower")):
        if f"log_z_{other}" in numbers:
            numbers[f"log_likelihood_{bound}"] = row - numbers[f"log_z_{other}"]
    return numbers, refused


def bracket(
    model: Energy, data: Tensor, samples: Batch | str, annealing: Annealing, states: States
) -> tuple[dict[str, Any], dict[str, str]]:
    """Brackets on log Z by annealed importance sampling, and why one is missing.

    ``log_z_lower`` is the mean of log weights of chains from a base fitted to data (n, *event),
    ``log_z_upper`` that of chains that go back from samples; each has its standard error over the
    chains, and ``log_z_gap`` is their difference. ``log_z_forward`` and ``log_z_reverse`` are the
    logarithms of the mean weights, closer where the effective sample sizes are of the order of
    the chains. The samples are the ends of Markov chains and not exact draws, so that the
    upper bracket is approximate: it may be too low where those chains have missed modes.

    Raises:
        EvaluationError: no exact sampler, data of other states, or energies that are not finite.
        UserError: the sampler cannot sample the path's energies.
        DivergenceError: chains are not finite.
    """
    if annealing.sampler is None:
        raise EvaluationError(
            "there is no sampler to move annealed chains; state [evaluation] annealing_sampler"
        )
    generator = annealing.generator
    path, betas = Path(model, base_for(states, data)), ladder(annealing.steps)
    move = mover(
        annealing.sampler,
        path,
        betas,
        generator=generator,
        dtype=data.dtype,
        training_step=annealing.training_step,
    )
    lower = lower_side(
        forward(path, betas, move, annealing.chains, generator=generator, dtype=data.dtype)
    )
    numbers: dict[str, Any] = {
        "log_z_lower": lower.mean,
        "log_z_lower_error": lower.error,
        "log_z_forward": lower.pooled,
        "log_z_forward_error": lower.pooled_error,
        "annealing_effective": lower.effective,
        "annealing_steps": annealing.steps,
        "annealing_chains": annealing.chains,
    }
    if isinstance(samples, str):
        return numbers, {"log_z_upper": samples}
    try:
        upper = upper_side(reverse(path, betas, move, samples.x[: annealing.chains]))
    except EvaluationError as error:
        return numbers, {"log_z_upper": str(error)}
    return numbers | {
        "log_z_upper": upper.mean,
        "log_z_upper_error": upper.error,
        "log_z_upper_holds": "approximately: it starts at the ends of chains, not at exact samples",
        "log_z_gap": upper.mean - lower.mean,
        "log_z_reverse": upper.pooled,
        "log_z_reverse_error": upper.pooled_error,
        "annealing_effective_reverse": upper.effective,
    }, {}


def _collapsed(found: Mapping[str, Any]) -> str:
    """Why the mean weight is no estimate of Z; empty where it is one."""
    effective, chains = found["annealing_effective"], found["annealing_chains"]
    least = max(_EFFECTIVE, _EFFECTIVE_SHARE * chains)
    if effective >= least:
        return ""
    more = (
        "annealing_steps bring them together" if chains >= least else "annealing_chains are needed"
    )
    return (
        f"the weights of the {chains} annealed chains count as no more than {effective:.1f}, fewer "
        f"than the {least:g} from which their mean is to be trusted; the brackets stand, and more "
        f"[evaluation] {more}"
    )


def _exact(model: Model, data: Tensor, known: Mapping[str, Any], states: States) -> dict[str, Any]:
    """log Z without chance and how it was found.

    Raises:
        UserError: there is no way to it, or the model's own is too long.
    """
    formula = offered(model, "log_partition")
    if formula is not None:
        with torch.no_grad():
            value, method = float(formula()), "exact"
    elif states.discrete:
        value, method = _sum_over_states(model, data, states), "exact"
    elif "log_z" in known:
        value, method = known["log_z"], "quadrature"
    elif data.shape[1:] == (2,):
        value, method = log_partition(model, data)[0], "quadrature"
    else:
        raise EvaluationError(
            "the model offers no log_partition and its events are not planar; [evaluation] "
            "annealing_steps brackets it"
        )
    if not math.isfinite(value):
        raise EvaluationError(f"log Z by {method} came out as {value}")
    return {"log_z": value, "log_z_method": method}


def _sum_over_states(model: Energy, data: Tensor, states: States) -> float:
    """log Σ exp(−E) over the states that data (n, *event) are some of.

    Raises:
        EvaluationError: there are too many of them, or the data are of others.
    """
    base_for(states, data)  # Refuses data of other states than those below.
    shape, k = data.shape[1:], states.categories or 2
    sites = shape.numel() // (states.categories or 1)
    if k**sites > STATES:
        raise EvaluationError(
            f"the model offers no log_partition and has {k}^{sites} states, too many to sum over; "
            "[evaluation] annealing_steps brackets it"
        )
    rows = torch.tensor(list(itertools.product(range(k), repeat=sites)), device=data.device)
    if states.categories is not None:
        rows = torch.nn.functional.one_hot(rows, k)
    with torch.no_grad():
        energies = model(rows.to(data.dtype).view(-1, *shape))
    return float(torch.logsumexp(-energies.double(), 0))
