"""The kit's laws of models: sound ones keep them, and each of these broken ones breaks one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ebmkit_energies.ising import Ising
from ebmkit_energies.rbm import RBM
from torch import Tensor, nn

from ebmkit.testing import Subject, report
from ebmkit.testing.reference import Network
from ebmkit.testing.reports import laws_of

LAWS = [law for law in laws_of("model") if ".testing.models." in law.check.__module__]


class Sound(Network):
    """What the broken ones below are made from."""

    twice = True


class Summed(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x).sum().expand(len(x))


class OneNumber(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x).mean()


class Column(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x).unsqueeze(1)


class Squeezed(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x).squeeze()


class Single(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x).float()


class Half(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if x.dtype == torch.float64:
            return super().forward(x)
        return super().forward(x).bfloat16().to(x.dtype)


class NotANumber(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        told = super().forward(x)
        return told * (float("nan") if len(x) == 1 else 1.0)


class Clamped(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x.clamp_(-1, 1))


class Normalised(Sound):
    """BatchNorm left in training mode."""

    def __init__(self, event_shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__(event_shape, seed=seed)
        size = self.weight.shape[1]
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        rows = x.flatten(1)
        if len(rows) > 1:
            rows = nn.functional.batch_norm(rows, self.mean, self.variance, training=True)
        return super().forward(rows.view(x.shape))


class Dropped(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5))


class Modes(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        self.train()
        return super().forward(x)


class Centred(Sound):
    """Rows leak into one another through the batch's mean."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x - 0.01 * x.sum(0))


class Neighbour(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        told = super().forward(x)
        return told + 1e-3 * told.roll(1)


class Detached(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x) + x.detach().flatten(1).sum(1)


class Rounded(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        stepped = (x * 1e6).round() / 1e6
        return super().forward(x) + 0.01 * (stepped.detach() - x).flatten(1).sum(1)


class Untrained(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        rows = x.flatten(1)
        bent = torch.tanh(rows @ self.weight.T + self.bias.detach()) @ self.out
        return bent + rows.square().sum(1) / 8


class Once(Sound):
    """A gradient that cannot be differentiated again."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x) + Square.apply(x)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().flatten(1).sum(1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * slopes[0].detach().view(-1, *[1] * (x.ndim - 1))


class AnyEvents(Sound):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x.mean(-1, keepdim=True).expand(-1, *self.event_shape))


class Formula(nn.Module):
    """½‖x‖² and its gradient by a formula."""

    event_shape = (2,)
    factor = 1.0
    log_z = 1.8378770664093453

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (2,):
            raise ValueError("wrong events")
        return x.square().flatten(1).sum(1) / 2

    def energy_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self(x), self.factor * x

    def log_partition(self) -> Tensor:
        return torch.tensor(self.log_z, dtype=torch.float64)


def derived(**attributes: Any) -> type[Formula]:
    """A class with a formula of its own: that of a derived one is passed over by the kernel."""
    return type("Broken", (nn.Module,), {**vars(Formula), **attributes})


class Labelled(Sound):
    conditional = True

    def __init__(self, event_shape: tuple[int, ...], n_classes: int, seed: int = 0) -> None:
        super().__init__(event_shape, seed=seed)
        self.n_classes = n_classes
        self.shift = nn.Parameter(torch.zeros(n_classes, self.weight.shape[1]))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None and condition.shape == (len(x),)
        return super().forward(x + self.shift[condition].view(x.shape))


class LabelIgnored(Labelled):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return Network.forward(self, x)


class FirstLabel(Labelled):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None and condition.shape == (len(x),)
        return super().forward(x, condition[:1].expand(len(x)))


class LabelsClamped(Labelled):
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        return super().forward(x, condition.clamp(0, self.n_classes - 1))


class Bits(Ising):
    """The Ising model, of a fixed size; its derived ones are broken."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(event_shape=(3,), field=0.4, coupling=0.6, **keywords)


class SweptAtOnce(Bits):
    """All sites given the old ones, as if they were independent."""

    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        spins = 2 * x - 1
        up = (2 * (self.strength * self._around(spins) + self.bias)).sigmoid()
        return (uniforms < up).to(x.dtype)


class SweptHalf(Bits):
    """The factor 2 of a spin's flip forgotten."""

    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        for site in range(3):
            around = self._around(2 * x - 1)
            up = (self.strength * around + self.bias).sigmoid()
            x = torch.where(torch.arange(3) == site, (uniforms < up).to(x.dtype), x)
        return x


class SweptNowhere(Bits):
    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        return x.clone()


class SweptFirstAlone(Bits):
    """One variable alone is ever drawn."""

    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        return torch.cat([super().sweep(x, uniforms)[:, :1], x[:, 1:]], 1)


class SweptByOneNumber(Bits):
    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        return super().sweep(x, uniforms[:, :1].expand(-1, 3))


class SpinsNotBits(Bits):
    def sweep(self, x: Tensor, uniforms: Tensor) -> Tensor:
        return 2 * super().sweep(x, uniforms) - 1


class WithoutField(Bits):
    def log_partition(self) -> Tensor:
        return Ising(event_shape=(3,), coupling=0.6).log_partition()


class InfiniteState(Bits):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x.flatten(1).prod(1).log()


class BridgeTurned(RBM):
    """The base's probabilities of zeros for those of ones."""

    def bridge(self, inverse_temperature: Any, base: Tensor | None = None) -> Any:
        return super().bridge(inverse_temperature, None if base is None else 1 - base)


class BridgeBackwards(RBM):
    def bridge(self, inverse_temperature: Any, base: Tensor | None = None) -> Any:
        return super().bridge(1 - inverse_temperature, base)


ONE, ROWS = "one-energy-a-row", "rows-independent"
BROKEN: dict[str, tuple[Any, str]] = {
    "energies summed over the batch": (Summed, ROWS),
    "one number for a batch": (OneNumber, ONE),
    "a column of energies": (Column, ONE),
    "squeezed to no dimension": (Squeezed, ONE),
    "single precision for double": (Single, ONE),
    "half precision inside": (Half, "precisions-agree"),
    "nan for one row": (NotANumber, ONE),
    "points changed in place": (Clamped, ONE),
    "batch norm left in training: rows": (Normalised, ROWS),
    "batch norm left in training: statistics": (Normalised, "evaluation-changes-nothing"),
    "dropout left in training": (Dropped, "evaluation-changes-nothing"),
    "mode changed by a call": (Modes, "evaluation-changes-nothing"),
    "rows leak by the mean": (Centred, ROWS),
    "rows leak by the neighbour": (Neighbour, ROWS),
    "part detached in x": (Detached, "gradient-is-of-the-energy"),
    "a gradient that cancels": (Rounded, "gradient-is-of-the-energy"),
    "part detached in parameters": (Untrained, "parameters-are-trained"),
    "differentiable once": (Once, "second-derivatives-right"),
    "events of any shape taken": (AnyEvents, "wrong-events-refused"),
    "formula off by a factor": (derived(factor=2.0), "formula-is-the-gradient"),
    "formula of the other sign": (derived(factor=-1.0), "formula-is-the-gradient"),
    "formula is nan": (derived(factor=float("nan")), "formula-is-the-gradient"),
    "formula in single precision": (
        derived(energy_and_gradient=lambda s, x: (s(x).float(), x.float())),
        "formula-is-the-gradient",
    ),
    "formula without energies": (
        derived(energy_and_gradient=lambda s, x: (torch.zeros_like(s(x)), x)),
        "formula-is-the-gradient",
    ),
    "log Z wrong": (derived(log_z=0.9189385332046727), "log-partition-right"),
    "log Z nan": (derived(log_z=float("nan")), "log-partition-right"),
    "labels ignored": (LabelIgnored, "labels-matter"),
    "the first label for all": (FirstLabel, "labels-matter"),
    "labels clamped": (LabelsClamped, "labels-matter"),
    "sweep of all sites at once": (SweptAtOnce, "sweep-leaves-it-invariant"),
    "sweep without its 2": (SweptHalf, "sweep-leaves-it-invariant"),
    "sweep of nothing": (SweptNowhere, "sweep-leaves-it-invariant"),
    "sweep of one variable": (SweptFirstAlone, "sweep-leaves-it-invariant"),
    "sweep by one uniform": (SweptByOneNumber, "sweep-leaves-it-invariant"),
    "sweep to spins": (SpinsNotBits, "sweep-leaves-it-invariant"),
    "log Z of another field": (WithoutField, "log-partition-right"),
    "a state of infinite energy": (InfiniteState, "states-have-energies"),
    "bridge from the base turned": (BridgeTurned, "bridge-ends-right"),
    "bridge backwards": (BridgeBackwards, "bridge-ends-right"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_one_is_caught(name: str) -> None:
    broken, expected = BROKEN[name]
    (law,) = [law for law in LAWS if law.name == expected]
    found = report(Subject("model", broken), [law])
    assert not found.good
    (outcome,) = found.outcomes
    assert outcome.status == "broken", "\n".join(found.lines())


@pytest.mark.parametrize("kind", [Network, Sound, Formula, derived(), Labelled, Bits])
def test_the_sound_ones_keep_every_law(kind: Any) -> None:
    found = report(Subject("model", kind), LAWS)
    assert found.good and len(LAWS) == 14, "\n".join(found.lines())


def test_a_model_that_says_it_has_no_derivatives_is_not_asked_for_them() -> None:
    class Steps(Rounded):
        differentiable = False

    found = report(Subject("model", Steps), LAWS)
    assert found.good, "\n".join(found.lines())


def test_a_function_is_a_model() -> None:
    def energy(x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(1) / 2

    found = report(Subject("model", lambda: energy), LAWS)
    assert found.good, "\n".join(found.lines())
