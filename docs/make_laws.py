"""Writes laws.md, what the conformance kit asks of parts, from the laws themselves.

python docs/make_laws.py
"""

from __future__ import annotations

from pathlib import Path

from ebmkit.testing.laws import ALL, Law
from ebmkit.testing.reports import laws_of

PAGE = Path(__file__).with_name("laws.md")
TITLES = {
    "model": "Models",
    "sampler": "Samplers",
    "loss": "Losses",
    "scheduler": "Schedulers",
    "dataset": "Data sets",
    "hook": "Hooks",
}
HEAD = """\
# What the kit checks

A law is something that holds of every part of a kind, whoever wrote it. The conformance kit tries the
laws of its kind on a part:

<!-- not run: it is of a package that the reader has -->

```console
$ ebmkit check ebmkit-barker
$ ebmkit check ebmkit-core:langevin ebmkit-core:pcd
```

on installed plugins, and in the tests of a package by three lines,

```text
import ebmkit.testing
from ebmkit_barker import Barker
test_barker = ebmkit.testing.suite("sampler", Barker)
```

each law as a test of its own. Both need `pip install 'ebmkit-core[testing]'`. They say how many cases
each law was tried on, which laws cannot be asked of the part and why, and of a broken law the case,
what was expected, what was got, and what users would see. What a part raises instead of an answer is
shown once, with the lines of its own code that lead there, the case, and the laws that could not be
asked because of it: those were not shown to be broken. A part of which nothing was tried has not
passed.

`suite` takes an instance, or a class, which it makes anew for each case with its defaults;
`event_shape` where events can only be of one shape, `batch_size` where a loss takes no larger batches,
and `seed`.
Inputs vary by hypothesis, from choices that the seed fixes: the same seed tries the same cases. Laws
about distributions start from exact draws and compare means over many chains, each with a false-alarm
rate of 10⁻⁸. All built-in parts keep all laws over twenty seeds, and the kit's own tests break parts on
purpose, in more than two hundred ways, and see that the law that should bite does.

## Claims

What a part is by design, it says by class attributes. A claim is tried like everything else, and a part
that claims nothing is held to the strictest reading.
"""
CLAIMS = [
    (
        "`examples`",
        "all",
        "keyword mappings to make it with, one for each configuration that is to be tried, where "
        "defaults do not make one; or a function of a temporary folder that returns them",
    ),
    (
        "`stated_only`",
        "hooks",
        "`True`: it takes part only in runs that state it, also where it could be made without options",
    ),
    ("`exact`", "samplers", "`True`: a step from `init` leaves p(x) ∝ exp(−E(x)) exactly as it is"),
    ("`reversible`", "samplers", "`True`: a step is in detailed balance with p(x)"),
    (
        "`bias_order`",
        "samplers",
        "biased by design, by a bias of that order in `step_size`, which is tried for shrinking so",
    ),
    ("`stationary`", "samplers", "`False`: it leaves no distribution invariant, as an optimiser"),
    (
        "`discrete`, `categories`",
        "samplers, models",
        "states are bits, or one-hot of so many categories",
    ),
    ("`traceable`", "samplers", "`False`: steps cannot be compiled, and are not"),
    (
        "`consistent`",
        "losses",
        "`False`: its gradient does not vanish where the model is the data's distribution",
    ),
    ("`averages`", "losses", "`False`: it is no mean over the batch's rows"),
    (
        "`estimates`",
        "losses",
        '`"score-matching"`: its mean is ½ E‖s‖² + E tr ∇s, up to a constant of the data',
    ),
]
"""Attribute, kinds and meaning."""


def render() -> str:
    """The whole page."""
    claims = ["| attribute | of | what it says |", "|---|---|---|"]
    claims += [f"| {' | '.join(claim)} |" for claim in CLAIMS]
    blocks = [HEAD, "\n".join([*claims, ""])]
    common = [law for law in laws_of(ALL[0]) if law.kinds == ALL]
    blocks.append(_table("All kinds", common))
    for kind in ALL:
        own = [law for law in laws_of(kind) if law.kinds != ALL]
        blocks.append(_table(TITLES[kind], own))
    return "\n".join(blocks)


def _table(title: str, laws: list[Law]) -> str:
    rows = [f"| `{law.name}` | {law.why} | {law.means} |" for law in laws]
    head = [f"## {title}", "", "| law | why | where it is broken |", "|---|---|---|"]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
