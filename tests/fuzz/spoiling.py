"""Inputs that are nearly right: valid ones, spoilt as whoever means harm, or a broken disk, would."""

from __future__ import annotations

import io
import json
import math
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence

Spoiler = Callable[[bytes, random.Random], bytes]

NUMBERS = [
    *(b"0", b"-0", b"1", b"-1", b"2", b"255", b"256", b"65536", b"1000000000000", b"-9"),
    *(b"2147483648", b"9223372036854775807", b"9223372036854775808", b"18446744073709551616"),
    *(
        b"1e308",
        b"1e309",
        b"-1e309",
        b"1e-320",
        b"0.1",
        b"nan",
        b"inf",
        b"-inf",
        b"NaN",
        b"Infinity",
    ),
    *(b"9" * 400, b"9" * 5000, b"0x" + b"f" * 6000, b"1e99999", b"1_000", b"0x1", b"0b1", b"0o7"),
    *("٣".encode(), "１２".encode(), b"1" + b"0" * 12, b"1" + b"0" * 18),
]
"""What to write in place of a number."""
WORDS = [
    *(b"\x00", b"\n", b"\r\n", b"\r", b"\t", b" ", b'"', b"'", b"\\", b",", b";", b"=", b".", b"#"),
    *(b"[", b"]", b"{", b"}", b"(", b")", b"[[", b"]]", b'"""', b"'''", b"\\u0000", b"\\ud800"),
    *(b"\xef\xbb\xbf", b"\xff", b"\x80", b"\xed\xa0\x80", b"\x1b[31m", "é".encode()),
    *("\u2028".encode(), "\u202e".encode(), "\U0001f600".encode(), b"../../", b"/etc/passwd", b"~"),
    *(b"os.system", b"os:system", b"builtins:eval", b"__class__", b"__import__('os')", b"@sampler"),
    *(b"true", b"false", b"null", b"None", b"[]", b"{}", b'""', b"x" * 5000, b"\x00" * 300),
    *(b"[" * 2000, b"{" * 2000, b"a." * 3000 + b"a", b"[" * 3000 + b"]" * 3000),
    *(b'{"a":' * 3000 + b"1" + b"}" * 3000, b"{a=" * 1500 + b"1" + b"}" * 1500),
    *(b"1979-05-27T07:32:00Z", b"07:32:00", b"%s%n", b"${HOME}", b"<script>"),
]
"""What to put anywhere."""
_NUMBER = re.compile(rb"(?<![\w.])[-+]?\d[\w.+-]*")
_WORD = re.compile(rb"[A-Za-z_][\w-]*")


def spoilt(
    seeds: Sequence[bytes],
    chance: random.Random,
    *,
    words: Sequence[bytes] = (),
    own: Sequence[Spoiler] = (),
    share: float = 0.4,
    limit: int = 200_000,
) -> bytes:
    """One of the seeds with one change or several, of which about a ``share`` are the format's
    ``own``."""
    data = chance.choice(seeds)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        if own and chance.random() < share:
            data = chance.choice(own)(data, chance)
        elif words and chance.random() < 0.2:
            data = _put(data, chance.choice(words), chance)
        elif chance.random() < 0.03:
            data = data[: _cut(data, chance)] + chance.choice(seeds)
        else:
            data = chance.choice(_CHANGES)(data, chance)
        data = data[:limit]
    return data


def _cut(data: bytes, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _span(data: bytes, chance: random.Random) -> tuple[int, int]:
    start = _cut(data, chance)
    length = chance.choice((1, 1, 2, 4, 8, 16, 64, 256))
    return start, min(start + length, len(data))


def _put(data: bytes, what: bytes, chance: random.Random) -> bytes:
    at = _cut(data, chance)
    return data[:at] + what + data[at:]


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(data), chance.choice((1, 1, 2, 4, 16)))):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + chance.randbytes(end - start) + data[end:]


def _truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: _cut(data, chance)]


def _drop(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + data[end:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 2, 10, 100)) + data[end:]


def _move(data: bytes, chance: random.Random) -> bytes:
    start, end = _span(data, chance)
    return _put(data[:start] + data[end:], data[start:end], chance)


def _word(data: bytes, chance: random.Random) -> bytes:
    return _put(data, chance.choice(WORDS), chance)


def _replaced(data: bytes, pattern: re.Pattern[bytes], by: bytes, chance: random.Random) -> bytes:
    found = list(pattern.finditer(data))
    if not found:
        return data + by
    at = chance.choice(found)
    return data[: at.start()] + by + data[at.end() :]


def _number(data: bytes, chance: random.Random) -> bytes:
    return _replaced(data, _NUMBER, chance.choice(NUMBERS), chance)


def _rename(data: bytes, chance: random.Random) -> bytes:
    found = _WORD.findall(data)
    by = chance.choice(found) if found and chance.random() < 0.5 else chance.choice(WORDS)
    return _replaced(data, _WORD, by, chance)


def _lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\n")
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    kind = chance.randrange(4)
    if kind == 0:
        lines.insert(other, lines[at])
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at:at] = [lines[at]] * chance.choice((2, 20, 300))
    return b"\n".join(lines)


_CHANGES: tuple[Spoiler, ...] = (
    *(
        _flip,
        _overwrite,
        _truncate,
        _drop,
        _repeat,
        _move,
        _word,
        _number,
        _number,
        _rename,
        _lines,
    ),
)


VALUES = [
    *(b'"a"', b"'b'", b"true", b"1", b"-1", b"2.5", b"[]", b"{}", b'["a", 1, true]', b'"@loss"'),
    *(b'"mlp"', b'"langevin"', b"{use = 1}", b'{use = "mlp"}', b'{use = "constant", value = 0}'),
    *(b'{use = "cosine"}', b'{use = "sequential", schedulers = ["constant"]}', b"{a = {b = {}}}"),
    *(b"1979-05-27", b'"os.system"', b'"os:system"', b'"ebmkit-core:mlp"', b'"a:b"', b'""', b'":"'),
    *(b'"' + b"x" * 3000 + b'"', b"[" + b"1, " * 3000 + b"]", b'["constant", ' * 90 + b"]" * 90),
    *(b'["' + b'a", "' * 3000 + b'"]', b'"\\u001b[31m"', b'"a\\nb"', b'"../../x"', b'"cuda:99"'),
]
"""What to write in place of a value of TOML, beside numbers."""
_ASSIGNED = re.compile(rb"(?<==)[^\n]*")


def toml_value(data: bytes, chance: random.Random) -> bytes:
    """One value replaced, or a key added to the end."""
    value = b" " + chance.choice(NUMBERS if chance.random() < 0.3 else VALUES)
    return _replaced(data, _ASSIGNED, value, chance)


def toml_keys(data: bytes, chance: random.Random) -> bytes:
    """More keys and tables, a few or very many, short or very long."""
    n = chance.choice((1, 3, 50, 800, 5000))
    deep = b".".join([b"a"] * chance.choice((2, 40, 900)))
    more = chance.choice(
        (
            b"\n".join(b"k%d = %d" % (i, i) for i in range(n)),
            b"\n".join(b"[t%d]" % i for i in range(n)),
            b"\n".join(b"[[hooks.x]]" for _ in range(n)),
            deep + b" = 1",
            b"[" + deep + b"]\n" + deep + b" = 2",
            b"[model." + deep + b"]",
            b"x = " + b"[" * min(n, 900) + b"]" * min(n, 900),
            b"hidden = [" + b"[1], " * n + b"]",
            b'"' + b"k" * n + b'" = 1',
            b'"\\u0000" = 1\n"" = 2',
        )
    )
    lines = data.split(b"\n")
    lines.insert(chance.randrange(len(lines) + 1), more)
    return b"\n".join(lines)


def csv_cells(data: bytes, chance: random.Random) -> bytes:
    """One cell replaced, or many put in."""
    separator = chance.choice((b",", b";", b"\t"))
    cells = data.split(separator)
    at = chance.randrange(len(cells))
    kind = chance.randrange(4)
    if kind == 0:
        cells[at] = chance.choice(NUMBERS)
    elif kind == 1:
        cells[at] = b'"' + chance.choice(WORDS) + b'"'
    elif kind == 2:
        cells[at:at] = [b"1"] * chance.choice((1, 100, 20_000))
    else:
        cells[at:at] = [b'"\n"'] * chance.choice((1, 100, 5_000))
    return separator.join(cells)


_HEADERS = [
    *("(1000000000000, 2)", "(0, 2)", "(4,)", "()", "(-1, 2)", "(2, -1)", "(2**40,)", "(True, 2)"),
    *("(4, 2, 1, 1, 1)", "(1000000, 1000000, 1000000)", "(4.0, 2)", "[4, 2]", "(None,)", "'x'"),
    *("(9223372036854775807, 9223372036854775807)", "(18446744073709551616,)", "(0, 10**12)"),
    *("(" + "1, " * 70 + ")", "(" * 150 + ")" * 150, "(0, 1000000000000)", "(1000000000000, 0)"),
]
_DTYPES = [
    *("'<f8'", "'>f8'", "'<f4'", "'|O'", "'|S0'", "'<U0'", "'|V0'", "'|V8'", "'<c16'", "'<M8[ns]'"),
    *(
        "'|b1'",
        "'<i8'",
        "'<f16'",
        "'|S1000000000'",
        "[('a', '<f8')]",
        "[('a', '|O')]",
        "'nonsense'",
    ),
    *("('<f8', (1000, 1000))", "[('a', '<f8', (1000000,))]", "None", "12", "'f8,' * 9", "{}"),
]


def npy_header(data: bytes, chance: random.Random) -> bytes:
    """A header of an npy file that says something else of the bytes that follow."""
    body = data[data.find(b"\n") + 1 :] if data[:6] == b"\x93NUMPY" else data
    shape = chance.choice(_HEADERS) if chance.random() < 0.7 else "(4, 2)"
    dtype = chance.choice(_DTYPES) if chance.random() < 0.5 else "'<f8'"
    order = chance.choice(("True", "False", "1", "None"))
    text = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if chance.random() < 0.1:
        text = chance.choice(WORDS).decode("latin-1") + text
    version = chance.choice((1, 1, 1, 2, 3, 4))
    header = text.encode("latin-1") + b"\n"
    length = len(header) if chance.random() < 0.9 else chance.choice((0, 1, 65535, 2**31))
    packed = struct.pack("<H", length & 0xFFFF) if version == 1 else struct.pack("<I", length)
    return b"\x93NUMPY" + bytes((version, 0)) + packed + header + body


def npz_members(data: bytes, chance: random.Random) -> bytes:
    """The archive packed anew: a member spoilt, renamed, doubled or swollen."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return data
    if not members:
        return data
    at = chance.randrange(len(members))
    name, content = members[at]
    names = [name, "x.npy", "x", "../../x.npy", "/tmp/x.npy", "", "a/b.npy", "\x00.npy", "é.npy"]
    name = chance.choice(names) if chance.random() < 0.4 else name
    kind = chance.randrange(4)
    if kind == 0:
        content = npy_header(content, chance)
    elif kind == 1:
        content = chance.choice(_CHANGES)(content, chance)
    elif kind == 2:
        content += bytes(chance.choice((0, 100, 300_000)))
    members[at : at + chance.randint(0, 1)] = [(name, content)] * chance.choice((1, 1, 2, 3))
    packed = io.BytesIO()
    way = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(packed, "w", way) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, way)
    return packed.getvalue()


def safetensors_header(data: bytes, chance: random.Random) -> bytes:
    """A header of a safetensors file that says something else, its stated length true or not."""
    if len(data) < 8:
        return data
    length = struct.unpack("<Q", data[:8])[0]
    header, body = data[8 : 8 + length], data[8 + length :]
    kind = chance.random()
    if kind < 0.1:
        header = chance.choice((_number, _rename, _word, _flip, _repeat, _drop))(header, chance)
    elif kind < 0.3:
        header = _tensors(header, chance)
    elif kind < 0.4:
        body = chance.choice((_flip, _overwrite, _move))(body, chance)[: len(body)]
    else:
        header = _tree(header, chance)
    length = len(header)
    if chance.random() < 0.03:
        length = chance.choice((0, 1, length + 1, 2**27, 2**40, 2**63, 2**64 - 1))
    return struct.pack("<Q", length) + header + body


_NODES = [
    *({"tensor": "x"}, {"tensor": 3}, {"value": 1}, {"value": [1]}, {"dict": [[1, {"value": 2}]]}),
    *(
        {"dict": 3},
        {"dict": [[[], {"value": 1}]]},
        {"dict": [["a"]]},
        {"list": "ab"},
        {},
        [],
        1,
        None,
    ),
    *(
        {"list": [{"value": 0}] * 3000},
        {"tuple": [{}]},
        {"named": "a b", "fields": [], "values": []},
    ),
    {"named": "N", "fields": ["a", "a"], "values": [{"value": 1}] * 2},
    {"named": "N", "fields": ["_a", "class"], "values": [{"value": 1}] * 2},
    {"named": "N", "fields": "abc", "values": [{"value": 1}] * 3},
    {"named": "N", "fields": ["a", "b"], "values": [{"value": 1}]},
    {"list": [{"named": f"N{i}", "fields": ["a"], "values": [{"value": i}]} for i in range(300)]},
    *("tensor", "value", "dict", "named", {"named": 3, "fields": 3, "values": 3}),
    {"value": 10**30},
    {"dict": [["step", {"value": 10**30}]]},
]


_ALIKE = {"F32": ("I32", "U32"), "I64": ("F64", "U64", "C64"), "U8": ("I8", "BOOL", "F8_E4M3")}


def _tensors(header: bytes, chance: random.Random) -> bytes:
    """The header with a tensor of another type, shape or name, of as many bytes or not."""
    try:
        described = json.loads(header)
        names = [name for name in described if name != "__metadata__"]
        entry = described[name := chance.choice(names)]
        kind = chance.randrange(4)
        if kind == 0:
            alike = {
                "F32": ["I32", "U32"],
                "I64": ["F64", "U64", "C64"],
                "U8": ["I8", "BOOL", "F8_E4M3"],
            }
            entry["dtype"] = chance.choice([*alike.get(entry["dtype"], []), "F16", "BF16", "X"])
        elif kind == 1:
            n = math.prod(entry["shape"])
            shapes = [[n], [1, n], [n, 1], entry["shape"][::-1], [0, 10**12], [10**12], [2**63, 2]]
            entry["shape"] = chance.choice(shapes)
        elif kind == 2:
            other = chance.choice(names)
            described[name], described[other] = described[other], entry
        else:
            described[chance.choice(("x", "/../../x", ""))] = described.pop(name)
        return json.dumps(described, separators=(",", ":")).encode()
    except Exception:
        return header


def _tree(header: bytes, chance: random.Random) -> bytes:
    """The header with another tree in its metadata."""
    try:
        described = json.loads(header)
        tree = json.loads(described["__metadata__"]["tree"])
    except Exception:
        return header
    holders: list[tuple[dict[str, object] | list[object], str | int]] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                holders.append((node, key))
                walk(value)
        elif isinstance(node, list):
            for place, value in enumerate(node):
                holders.append((node, place))
                walk(value)

    walk(tree)
    for _ in range(chance.randint(1, 2) if holders else 0):
        holder, key = chance.choice(holders)
        kind = chance.randrange(4)
        if kind == 0:
            holder[key] = chance.choice(_NODES)  # type: ignore[index, call-overload]
        elif kind == 1:
            other, name = chance.choice(holders)
            holder[key] = other[name] if not isinstance(other, dict) or name in other else 0  # type: ignore[index, call-overload]
        elif kind == 2 and isinstance(holder, dict):
            holder.pop(key, None)  # type: ignore[arg-type]
        else:
            scalars = (0, -1, 2**70, 1e400, "", "x", None, True, [], {}, "../../x", "\x00")
            holder[key] = chance.choice(scalars)  # type: ignore[index, call-overload]
    try:
        text = json.dumps(tree)
    except (ValueError, RecursionError):  # a change may have put a node into itself
        return header
    if chance.random() < 0.05:
        text = '{"list":[' * 20_000 + text + "]}" * 20_000
    described["__metadata__"]["tree"] = text
    return json.dumps(described, separators=(",", ":")).encode()
