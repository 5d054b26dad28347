"""One part by its name, and what is known of it before it is made."""

from __future__ import annotations

from typing import Any, Literal, Protocol, overload

from ebmkit.build import Builder
from ebmkit.errors import SpecError
from ebmkit.plan import Planner
from ebmkit.protocols import Dataset, Loss, Model, Sampler, Scheduler
from ebmkit.registry import KINDS, registry
from ebmkit.spec import Spec


class CreatedModel(Model, Protocol):
    """A model made by its name. What else it has, as ``parameters()``, is not known before."""

    def __getattr__(self, name: str, /) -> Any: ...


class CreatedDataset(Dataset, Protocol):
    """A data set made by its name. What else it has, as ``log_density``, is not known before."""

    def __getattr__(self, name: str, /) -> Any: ...


@overload
def create(kind: Literal["model"], name: str, /, **config: Any) -> CreatedModel: ...
@overload
def create(kind: Literal["sampler"], name: str, /, **config: Any) -> Sampler: ...
@overload
def create(kind: Literal["loss"], name: str, /, **config: Any) -> Loss: ...
@overload
def create(kind: Literal["scheduler"], name: str, /, **config: Any) -> Scheduler: ...
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
