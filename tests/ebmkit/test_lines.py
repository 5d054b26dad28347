"""Which line a key of a TOML text stands on."""

from __future__ import annotations

import time

import pytest

from ebmkit.lines import line_of

TEXT = """\
# A remark.

[model]
use = "mlp"
hidden = [
  16,  # a = b
  16,
]
"quoted key" = 1

[sampler]   # a remark
step_size = { use = "cosine", start_value = 1e-3 }
schedulers = [
  { use = "constant", value = 1 },
  { use = "linear" },
]
text = '''
[training]
steps = 3
'''
a.b.c = 1

# Another remark.
[training.optimizer]
use = "adam"
[training]
steps = 3
"""
AT = {
    "model": 3,
    "model.use": 4,
    "model.hidden": 5,
    "model.quoted key": 9,
    "model.unknown": 3,
    "sampler": 11,
    "sampler.step_size": 12,
    "sampler.step_size.start_value": 12,
    "sampler.schedulers": 13,
    "sampler.schedulers.use": 13,
    "sampler.a.b.c": 21,
    "training.optimizer": 24,
    "training.optimizer.use": 25,
    "training.steps": 27,
    "nowhere": None,
    "nowhere.at.all": None,
}


@pytest.mark.parametrize(("path", "line"), AT.items())
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines(path: str, line: int | None, newline: str) -> None:
    assert line_of(TEXT.replace("\n", newline), path.split(".")) == line


def test_separators_that_are_no_line_ends_of_toml() -> None:
    assert line_of('[a]\nb = "x\u2028y"\nc = 1\n', ["a", "c"]) == 3


def test_arrays_of_tables() -> None:
    assert line_of("[[a]]\nb = 1\n[[a]]\nc = 1\n", ["a"]) == 1
    assert line_of("[[a]]\nb = 1\n[[a]]\nc = 1\n", ["a", "c"]) == 4


@pytest.mark.parametrize(
    "text",
    [
        "[a]\n" + "\n".join(f"key{i} = [1, 2]" for i in range(20_000)),
        "[a]\nx = [\n" + "\n".join(f"[{i}]," for i in range(20_000)) + "\n]\n",
        "[a]\nx = '''\n" + "\n".join(f"key{i} = 1" for i in range(20_000)) + "\n'''\n",
        "[a]\n" + "# remark\n" * 20_000 + "x = 1\n",
    ],
    ids=["keys", "matrix", "string", "remarks"],
)
def test_the_search_does_not_grow_with_the_square(text: str) -> None:
    # Each of these takes well under a second; one that is quadratic takes hours.
    start = time.process_time()
    assert line_of(text, ["a", "x"]) in (1, 2, 20_002)
    assert time.process_time() - start < 10
