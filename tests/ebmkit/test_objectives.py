"""A loss bound to a model, for a hand-written loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import ebmkit
from ebmkit.holding import evaluating
from ebmkit.objectives import bind, conditional, probe


class Nothing(NamedTuple):
    pass


class Noting:
    """A loss that notes the model's mode in each phase."""

    def __init__(self) -> None:
        self.modes: dict[str, bool] = {}

    def init(self, model: Any, batch: Any, *, generator: torch.Generator) -> Nothing:
        self.modes["init"] = model.training
        return Nothing()

    def draw(
        self, model: Any, batch: Any, state: Nothing, step: int, *, generator: torch.Generator
    ) -> tuple[None, Nothing]:
        self.modes["draw"] = model.training
        return None, state

    def __call__(self, model: Any, batch: Any, draws: None) -> tuple[Tensor, dict[str, Tensor]]:
        self.modes["call"] = model.training
        return model(batch.x).mean(), {}


def normalised_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0)
    )


def test_the_model_is_evaluating_while_draws_are_made_and_training_while_the_loss_is() -> None:
    loss, model = Noting(), normalised_net()
    output = ebmkit.objective(loss, model)(torch.zeros(4, 2))
    assert loss.modes == {"init": False, "draw": False, "call": True}
    assert model.training
    assert output.negatives is None


def test_chains_change_no_batchnorm_statistics() -> None:
    pcd = ebmkit.create(
        "loss", "pcd", sampler=ebmkit.create("sampler", "langevin"), k_steps=7, buffer_size=64
    )
    model = normalised_net()
    objective = ebmkit.objective(pcd, model, generator=torch.Generator().manual_seed(0))
    for step in range(3):
        output = objective(torch.randn(32, 2, generator=torch.Generator().manual_seed(step)))
        assert output.negatives is not None
    # One pass a call, that of the loss itself.
    assert model[1].num_batches_tracked == 3
    assert all(p.grad is None for p in model.parameters())


def test_a_generator_reproduces_a_run_and_global_randomness_stays() -> None:
    cd = ebmkit.create("loss", "cd", sampler=ebmkit.create("sampler", "langevin"), k_steps=3)
    x = torch.zeros(8, 2)
    torch.manual_seed(7)
    before = torch.get_rng_state()

    def negatives(generator: torch.Generator | None) -> Tensor:
        output = ebmkit.objective(cd, lambda x: x.square().sum(1), generator=generator)(x)
        assert output.negatives is not None
        return output.negatives

    first = negatives(torch.Generator().manual_seed(1))
    assert torch.equal(first, negatives(torch.Generator().manual_seed(1)))
    assert not torch.equal(negatives(None), negatives(None))
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_that_is_not_finite_stops_and_keeps_nothing() -> None:
    objective = ebmkit.objective(Noting(), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))
    objective(torch.zeros(4, 2))
    with pytest.raises(ebmkit.DivergenceError, match="Noting: the loss is nan at step 1"):
        objective(torch.full((4, 2), torch.nan))
    assert objective.step == 1


def test_evaluating_puts_every_submodule_back_even_after_an_error() -> None:
    model = normalised_net()
    model[1].eval()

    def fail() -> None:
        with evaluating(model):
            assert not any(m.training for m in model.modules())
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fail()
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]


def test_conditional_models_are_told_by_attribute_or_signature() -> None:
    class Said(nn.Module):
        conditional = False

        def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
            return x[:, 0]

    class Signed(nn.Module):
        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            return x[:, 0] * condition

    assert not conditional(Said())
    assert conditional(Signed())
    assert not conditional(lambda x: x[:, 0])
    bound = bind(Signed(), torch.tensor([2.0, 3.0]))
    assert bound(torch.ones(2, 1)).tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: x, r"one energy a row, shape \(2,\).*got \(2, 3\)"),
        (lambda x: x.sum(), r"got \(\)"),
        (lambda x: 1.0, "got float"),
        (nn.Linear(5, 1), r"cannot take the data's events of shape \(3,\)"),
        (nn.Linear(3, 1), r"got \(2, 1\)"),
    ],
)
def test_a_model_that_gives_no_energy_a_row_is_found_out(model: Any, message: str) -> None:
    import re

    found = probe(model, (3,), None, torch.device("cpu"))
    assert re.search(message, found), found


def test_a_fitting_model_has_no_problem() -> None:
    assert probe(lambda x: x.sum(1), (3,), None, torch.device("cpu")) == ""


def test_names_and_classes_are_refused_with_what_makes_parts_of_them() -> None:
    model, x = normalised_net(), torch.zeros(4, 2)
    with pytest.raises(ebmkit.UserError, match=r'^loss: .* ebmkit\.create\("loss", "dsm"\)$'):
        ebmkit.objective("dsm", model)  # type: ignore[arg-type]
    with pytest.raises(ebmkit.UserError, match=r'^model: .* ebmkit\.create\("model", "mlp"\)$'):
        ebmkit.objective(Noting(), "mlp")  # type: ignore[arg-type]
    with pytest.raises(ebmkit.UserError, match=r"^loss: .* the class Noting; .* Noting\(…\)$"):
        ebmkit.objective(Noting, model)  # type: ignore[arg-type]
    with pytest.raises(ebmkit.UserError, match=r'ebmkit\.create\("sampler", "langevin"\)$'):
        ebmkit.sample("langevin", model, x, steps=1)  # type: ignore[arg-type]
