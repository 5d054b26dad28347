"""One part by its name, and what is known of it before it is made."""

from __future__ import annotations

from typing import Any, Literal, Protocol, overload

from ebmkit.build import Builder
from ebmkit.errors import SpecError
from ebmkit.plan import Planner
from ebmkit.protocols import Dataset, Loss, Model, Sampler, Scheduler
from ebmkit.registry import KINDS, registry
from ebmkit.spec import Spec


class Created(Protocol):
    """What a part has beyond its protocol is its own: fields, and what a protocol calls optional."""

    def __getattr__(self, name: str, /) -> Any: ...


class CreatedModel(Model, Created, Protocol):
    """A model that was made by its name."""


class CreatedSampler(Sampler, Created, Protocol):
    """A sampler that was made by its name."""


class CreatedLoss(Loss, Created, Protocol):
    """A loss that was made by its name."""


class CreatedScheduler(Scheduler, Created, Protocol):
    """A schedule that was made by its name."""


class CreatedDataset(Dataset, Created, Protocol):
    """A data set that was made by its name."""


@overload
def create(kind: Literal["model"], name: str, /, **config: Any) -> CreatedModel: ...
@overload
def create(kind: Literal["sampler"], name: str, /, **config: Any) -> CreatedSampler: ...
@overload
def create(kind: Literal["loss"], name: str, /, **config: Any) -> CreatedLoss: ...
@overload
def create(kind: Literal["scheduler"], name: str, /, **config: Any) -> CreatedScheduler: ...
@overload
def create(kind: Literal["dataset"], name: str, /, **config: Any) -> CreatedDataset: ...
@overload
def create(kind: str, name: str, /, **config: Any) -> Any: ...


def create(kind: str, name: str, /, **config: Any) -> Any:
    """One part by its name: ``create("sampler", "langevin", step_size=1e-2)``.

    Values may be plain, as in TOML, or live objects.

    Raises:
        SpecError: an unknown name or key, a wrong type, or a value out of range.
    """
    if kind not in KINDS:
        registry().of_kind(kind)
    planner = Planner(Spec(tables={}), registry())
    call = planner.part(kind, {"use": name, **config}, kind)
    if planner.problems:
        raise SpecError(planner.problems)
    builder = Builder({})
    part = builder.build(call)
    if builder.problems:
        raise SpecError(builder.problems)
    return part
