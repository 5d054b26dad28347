"""What laws are tried on: configurations that a part states, folders of files, shapes of events."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch

import ebmkit
from ebmkit.testing import subjects
from ebmkit.testing.reference import Network
from ebmkit.testing.subject import SHAPES


@attrs.frozen
class Values:
    """Numbers of a file."""

    path: str
    last: int = 0

    event_shape = (2,)

    @staticmethod
    def examples(folder: Path) -> Sequence[Mapping[str, Any]]:
        file = folder / "numbers"
        file.write_text("1 2")
        return ({"path": str(file)}, {"path": str(file), "last": 3})


class Stated(Network):
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"event_shape": (2, 2)},
        {"hidden": 2},
    )


class OfTwo(torch.nn.Module):
    """An energy of pairs, which only the example tells."""

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"event_shape": (2,)},)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().sum(1)


def test_each_configuration_is_a_subject() -> None:
    first, second = subjects("model", Stated)
    assert first.shapes == ((2, 2),)
    assert first.make(event_shape=(5,)).event_shape == (2, 2)
    assert second.shapes == SHAPES
    assert second.make(event_shape=(5,)).weight.shape == (2, 5)
    (plain,) = subjects("model", Network)
    assert plain.keywords == {}


def test_a_function_of_a_folder_writes_what_its_parts_read() -> None:
    first, second = subjects("dataset", Values)
    assert Path(first.make().path).read_text() == "1 2"
    assert second.make().last == 3
    again, _ = subjects("dataset", Values)
    assert again.make().path != first.make().path


ENDS = """
class Values:
    def __init__(self, path):
        self.path = path

    @staticmethod
    def examples(folder):
        (folder / "numbers").write_text("1 2")
        return ({"path": str(folder / "numbers")},)


from ebmkit.testing import subjects

(subject,) = subjects("dataset", Values)
print(subject.make().path, open(subject.make().path).read())
"""


def test_the_folder_is_gone_once_the_process_has_ended(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    path, *numbers = done.stdout.split()
    assert numbers == ["1", "2"]
    assert not Path(path).parent.exists()


def test_an_event_shape_that_is_no_parameter_tells_what_it_takes() -> None:
    (subject,) = subjects("model", OfTwo)
    assert subject.shapes == ((2,),)
    assert subject.keywords == {}
    assert isinstance(subject.make(), OfTwo)
    (subject,) = subjects("model", OfTwo, event_shape=(3,))
    assert subject.shapes == ((3,),)


def test_a_parameter_that_nothing_tells_is_named() -> None:
    class Open:
        """A schedule."""

        def __init__(self, value: float) -> None:
            self.value = value

    (subject,) = subjects("scheduler", Open)
    with pytest.raises(ebmkit.UserError, match=r"state examples = \(\{'value'"):
        subject.make()
