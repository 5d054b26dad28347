"""Writes api.md, every public name with its signature and its docstring.

    python docs/make_api.py

Signatures and docstrings are read from the sources, and the order is that of python.md.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

from prose import markdown

import ebmkit
from ebmkit import protocols

PAGE = Path(__file__).with_name("api.md")
ORDER = Path(__file__).with_name("python.md")
HEAD = """\
# Reference of names

Every name of `ebmkit`, with its signature and what it says of itself: arguments, shapes, errors. The
page is written from the sources by `python docs/make_api.py`. [Names in Python](python.md) says in
a line each what they are for; `help(ebmkit.compose)` shows the same in a session.
"""
# What Python or pluggy made, which has no docstring of ours.
SAID = {
    "PROTOCOL": "Version of the protocols that this release keeps to: see [versions](versioning.md).",
    "hookimpl": "Decorator of a method that implements a hook: see [protocols](protocols.md#hooks).",
}


def render() -> str:
    """The whole page."""
    page = ORDER.read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    in_tables = set(_names(_first_cells(page)))
    blocks, left = [HEAD], set(ebmkit.__all__)
    for title, text in sections:
        in_passing = [name for name in _names(text) if name not in in_tables]
        told = dict.fromkeys([*_names(_first_cells(text)), *in_passing])
        names = [name for name in told if name in left]
        left -= set(names)
        if names:
            blocks += [f"## {title}\n", *map(_entry, names)]
    if left:
        raise ValueError(f"python.md does not name {', '.join(sorted(left))}")
    return "\n".join(blocks)


def _first_cells(text: str) -> str:
    return " ".join(re.findall(r"^\| (`.*?) \| ", text, re.MULTILINE))


def _names(text: str) -> list[str]:
    return re.findall(r"`(\w+)(?:\([^`]*\))?`", text)


def _entry(name: str) -> str:
    value = getattr(ebmkit, name)
    lines = [f"### {name}", ""]
    if name in SAID:
        return "\n".join([*lines, SAID[name], ""])
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return "\n".join([*lines, "A type: see [protocols](protocols.md).", ""])
    if not inspect.isclass(value):
        return "\n".join([*lines, _call(_node(value)), ""])
    if value.__module__ == protocols.__name__ and getattr(value, "_is_protocol", False):
        return "\n".join(
            [*lines, f"{_summary(value)} [What it has to offer](protocols.md#{name.lower()}).", ""]
        )
    if issubclass(value, Exception):
        return "\n".join(
            [*lines, f"{_summary(value)} [Cause and remedy](errors.md#{name.lower()}).", ""]
        )
    return "\n".join([*lines, *_class(name, _node(value)), ""])


def _summary(value: type) -> str:
    return markdown(inspect.cleandoc(value.__doc__ or "").split("\n\n")[0])


def _node(value: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _class(name: str, node: ast.ClassDef) -> list[str]:
    lines = [markdown(ast.get_docstring(node) or "")]
    if fields := _fields(node):
        lines += ["", *fields]
    for item in node.body:
        if not isinstance(item, ast.FunctionDef) or not ast.get_docstring(item):
            continue
        if item.name.startswith("_") and item.name != "__call__":
            continue
        if any(ast.unparse(mark).endswith("setter") for mark in item.decorator_list):
            continue
        title = name if item.name == "__call__" else f"{name}.{item.name}"
        lines += ["", f"#### {title}{'(…)' * (item.name == '__call__')}", "", _call(item)]
    return lines


def _fields(node: ast.ClassDef) -> list[str]:
    """The fields of a NamedTuple or an attrs class, each with its meaning where it is told."""
    rows = []
    for item, after in pairwise([*node.body, ast.Pass()]):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if item.target.id.startswith("_"):
            continue
        meaning = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            meaning = " ".join(str(after.value.value).split())
        for call in ast.walk(item):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "doc":
                meaning = str(ast.literal_eval(call.args[0]))
        said = f": {markdown(meaning)}" if meaning else ""
        rows.append(f"- `{item.target.id}: {ast.unparse(item.annotation)}`{said}")
    return rows


def _call(node: ast.FunctionDef) -> str:
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^(self|cls)(, /)?(, )?", "", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    shown = f"{node.name}({arguments}){returns}"
    if any("property" in mark for mark in marks):
        shown = f"{node.name}{returns.replace(' ->', ':')}"
    doc = markdown(ast.get_docstring(node) or "")
    return f"```text\n{shown}\n```\n\n{doc}"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
