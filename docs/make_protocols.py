"""Writes protocols.md, the protocols and hooks, from their source.

python docs/make_protocols.py
"""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from pathlib import Path

from ebmkit import hooks, protocols

PAGE = Path(__file__).with_name("protocols.md")
HEAD = """\
# Protocols

What each kind of part has to offer, as the kernel asks for it. A part need not inherit from anything:
what has these methods is one. The page is written from `ebmkit/protocols.py` and `ebmkit/hooks.py` by
`python docs/make_protocols.py`; [versioning](versioning.md) says when they may change.
[What the kit checks](laws.md) tries all of it on a part.
"""


def render() -> str:
    """The whole page."""
    blocks = [HEAD, _names(), *map(_class, _classes(protocols))]
    blocks.append("## Hooks\n")
    specifications = next(c for c in _classes(hooks) if c.name == "Specifications")
    blocks += [_said(specifications), *map(_method, _methods(specifications))]
    return "\n".join(blocks)


def _classes(module: object) -> list[ast.ClassDef]:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def _names() -> str:
    """The aliases, each with the string that follows it."""
    rows = ["| name | is | what |", "|---|---|---|"]
    body = ast.parse(inspect.getsource(protocols)).body
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and node.value and isinstance(after, ast.Expr):
            said = " ".join(ast.literal_eval(after.value).split()).replace("|", "\\|")
            rows.append(f"| `{ast.unparse(node.target)}` | `{ast.unparse(node.value)}` | {said} |")
    return "\n".join([*rows, ""])


def _class(node: ast.ClassDef) -> str:
    fields = [
        f"- `{ast.unparse(line)}`: {ast.literal_eval(after.value)}"  # type: ignore[attr-defined]
        for line, after in pairwise(node.body)
        if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr)
    ]
    parts = [f"## {node.name}\n", _said(node)]
    if fields:
        parts.append("\n".join([*fields, ""]))
    return "\n".join([*parts, *map(_method, _methods(node))])


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef)]


def _method(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    marks = [f"@{ast.unparse(mark)}\n" for mark in node.decorator_list]
    kept = "".join(mark for mark in marks if "spec" not in mark)
    return f"```text\n{kept}{node.name}({ast.unparse(node.args)}){returns}\n```\n\n{_said(node)}"


def _said(node: ast.ClassDef | ast.FunctionDef) -> str:
    # Double backquotes are Python's for what are single ones here.
    return (ast.get_docstring(node) or "").replace("``", "`") + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
