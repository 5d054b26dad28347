"""Runs in MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
from attrs import field

from ebmkit import Run, doc
from ebmkit_tracking._tracker import Tracker, name_of, spec_of

STATUS = {"finished": "FINISHED", "interrupted": "KILLED"}
"""MLflow's words for how a run ended; FAILED for all others."""
AT_ONCE = 100
"""Parameters in a request; MLflow takes no more."""


@attrs.define(eq=False)
class MLflow(Tracker):
    """MLflow: a run there for each run here.

    Metrics every ``training.log_every`` steps, as ``training/NAME``; numbers of each evaluation, as
    ``evaluation/NAME``. The resolved spec is the parameters and an artifact, pictures are artifacts,
    and how the run ended is its status and the tag ``ebmkit.status``. Takes part only in runs that
    state it. A run that is resumed goes on under the same id; what was written after the checkpoint is
    written a second time, and the parameters stay those that it began with. Needs the extra ``mlflow``.
    """

    package: ClassVar[str] = "mlflow"

    experiment: str = field(
        metadata=doc("experiment that the run belongs to; made where there is none of that name")
    )
    name: str | None = field(
        default=None, metadata=doc("the run's name; by default that of its directory")
    )
    tracking_uri: str | None = field(
        default=None,
        metadata=doc(
            "server or database, as http://localhost:5000 or sqlite:///mlflow.db; by default what "
            "MLflow's settings say"
        ),
    )
    artifact_location: str | None = field(
        default=None,
        metadata=doc("where a new experiment keeps its artifacts; by default where MLflow does"),
    )
    _client: Any = field(default=None, init=False)

    @staticmethod
    def examples(folder: Path) -> tuple[Mapping[str, Any], ...]:
        here = {"tracking_uri": f"sqlite:///{folder}/mlflow.db", "artifact_location": str(folder)}
        return ({"experiment": "ebmkit", **here},)

    def begin(self, run: Run, key: str | None) -> str:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(self.tracking_uri)
        if key is None:
            experiment = self._client.get_experiment_by_name(self.experiment)
            key = self._client.create_run(
                self._client.create_experiment(self.experiment, self.artifact_location)
                if experiment is None
                else experiment.experiment_id,
                # One that MLflow makes up is drawn from Python's global generator.
                run_name=self.name or name_of(run) or "run",
            ).info.run_id
            parameters = [Param(n, str(value)) for n, value in _flat(run.pipeline.tables)]
            for first in range(0, len(parameters), AT_ONCE):
                self._client.log_batch(key, params=parameters[first : first + AT_ONCE])
        else:
            self._client.update_run(key, status="RUNNING")
        name, text = spec_of(run)
        self._client.log_text(key, text, name)
        return str(key)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, number, now, step) for name, number in numbers.items()]
        self._client.log_batch(self._key, metrics=metrics)

    def picture(self, step: int, path: Path) -> None:  # noqa: ARG002
        self._client.log_artifact(self._key, str(path), "pictures")

    def end(self, step: int, word: str) -> None:  # noqa: ARG002
        self._client.set_tag(self._key, "ebmkit.status", word)
        self._client.set_terminated(self._key, STATUS.get(word, "FAILED"))
        self._client = None


def _flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of all depths, as dotted paths, with their values."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        elif value is not None:
            yield f"{path}{name}", value
