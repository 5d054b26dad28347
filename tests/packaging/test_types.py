"""What a type checker, and so an editor, knows of ebmkit as it is installed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from ebmkit.registry import GROUPS

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
HEAD = """
import torch
import ebmkit
from ebmkit_energies.mlp import MLP
from ebmkit_langevin.langevin import Langevin

x = torch.zeros(4, 2)
kind = str(input())
sampler = ebmkit.create("sampler", "langevin", step_size=0.1)
model = ebmkit.create("model", "mlp", event_shape=(2,))
loss = ebmkit.create("loss", "pcd", sampler=sampler)
pipeline = ebmkit.compose("two-moons")
objective = ebmkit.objective(loss, model)
"""
TENSOR = "torch._tensor.Tensor"
REVEALED = {
    "sampler": "ebmkit.protocols.Sampler",
    "model": "ebmkit.creating.CreatedModel",
    "model(x)": TENSOR,
    "model.parameters()": "Any",
    "loss": "ebmkit.protocols.Loss",
    'ebmkit.create("scheduler", "cosine")': "ebmkit.protocols.Scheduler",
    'ebmkit.create("scheduler", "cosine")(3)': "float",
    'ebmkit.create("dataset", "two-moons").draw(3, generator=torch.Generator()).x': TENSOR,
    'ebmkit.create("dataset", "two-moons").log_density(x)': "Any",
    'ebmkit.create("hook", "progress")': "Any",
    "ebmkit.create(kind, 'mine')": "Any",
    "Langevin(step_size=0.1)": "ebmkit_langevin.langevin.Langevin",
    "Langevin(step_size=0.1).step_size": "float | ebmkit.protocols.Scheduler",
    "MLP(event_shape=(2,)).state_dict()": "dict[str, Any]",
    "ebmkit.sample(sampler, model, x, steps=3)": TENSOR,
    "ebmkit.sample(Langevin(step_size=0.1), MLP(event_shape=(2,)), x, steps=3)": TENSOR,
    "ebmkit.score(model, x)": TENSOR,
    "ebmkit.energy_and_gradient(model, x)": f"tuple[{TENSOR}, {TENSOR}]",
    "objective": "ebmkit.objectives.Objective",
    "objective(x).loss": TENSOR,
    "pipeline": "ebmkit.pipeline.Pipeline",
    "pipeline.sample(10)": TENSOR,
    "pipeline.evaluate()": "dict[str, Any]",
    "pipeline.sampler": "ebmkit.protocols.Sampler | None",
    'ebmkit.load("run")': "ebmkit.pipeline.Pipeline",
    "ebmkit.diagnose(pipeline)": "ebmkit.diagnostics.diagnosis.Diagnosis",
}
WRONG = {
    "ebmkit.sample(loss, model, x, steps=3)": "arg-type",
    "ebmkit.objective(sampler, model)": "arg-type",
    "Langevin(step=0.1)": "call-arg",
    "MLP(event_shape=2)": "arg-type",
}


def test_what_is_made_has_the_type_of_its_kind(ours: tuple[Any, Any]) -> None:
    workshop, environment = ours
    file = workshop.work / "revealed.py"
    lines = [f"reveal_type({expression})" for expression in REVEALED]
    file.write_text("\n".join([HEAD, *lines]), encoding="utf-8")
    said = environment.types(file)
    found = re.findall(r'Revealed type is "(.*)"', said)
    assert dict(zip(REVEALED, found, strict=True)) == REVEALED


def test_what_does_not_fit_is_said(ours: tuple[Any, Any]) -> None:
    """Each line is wrong in one way, which strict mode would call an unused excuse were it not."""
    workshop, environment = ours
    file = workshop.work / "wrong.py"
    lines = [f"{expression}  # type: ignore[{code}]" for expression, code in WRONG.items()]
    file.write_text("\n".join([HEAD, *lines]), encoding="utf-8")
    environment.types(file)


def test_every_built_in_is_a_part_of_its_kind(ours: tuple[Any, Any]) -> None:
    workshop, environment = ours
    groups = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]
    lines = ["import ebmkit"]
    for kind in ("model", "sampler", "loss", "scheduler", "dataset"):
        for number, target in enumerate(sorted(set(groups[GROUPS[kind]].values()))):
            module, name = target.split(":")
            lines += [f"from {module} import {name} as {name}{kind}{number}"]
            protocol = f"ebmkit.{kind.capitalize()}"
            lines += [f"def {kind}{number}(part: {name}{kind}{number}) -> {protocol}: return part"]
    assert len(lines) > 80
    file = workshop.work / "built_in.py"
    file.write_text("\n".join(lines), encoding="utf-8")
    environment.types(file)
