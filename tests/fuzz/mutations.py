"""Damaged and hostile bytes out of good ones; the same random numbers always give the same bytes."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

LONGEST = 200_000  # bytes of an input
REPEATED = 100_000  # bytes that a fragment is repeated to

NUMBERS = (
    "9" * 5000, "9" * 400, "-" + "9" * 400, "1e999", "-1e999", "1e-999", "0." + "0" * 400 + "1", "-0", "NaN",
    "-Infinity",
    "1_000", "0x10", "²", "٣", "１２", "18446744073709551616", "9223372036854775808", "-9223372036854775809",
    "4294967296",
    "2147483648", "1" + "0" * 100_000, "1e99999999999", "1,000,000", "00012", "1.", ".5", "--1", "1" + "e1" * 200,
)  # fmt: skip
ODD = (
    b"\x00", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80",
    "\u202e".encode(), "\u2028".encode(), "\x85".encode(), "\u00a0".encode(), "\u0130".encode(), "\ufdfa".encode(),
    ("e" + "\u0301" * 300).encode(), "\U0001f468\u200d\U0001f469".encode(), "\ufffe".encode(), b"\x1b[31m",
    b"\x1b]0;x\x07",
    b"\r", b"\r\n", b"\n", b"\t", b"\x0b", b"\x1c", b"\\ud800", b"\\u0000", b"%s%n", b"{}", b"../../etc/passwd",
)  # fmt: skip
NESTS = (
    (b"[", b"]"), (b"{", b"}"), (b'{"a":', b"}"), (b'[{"a":', b"}]"), (b"{a: ", b"}"), (b"(", b")"), (b"- ", b""),
    (b"<a>", b"</a>"), (b'"', b'"'), (b"'", b"'"), (b"? ", b""), (b"*", b"*"), (b" ", b""),
)  # fmt: skip
DEPTHS = (3, 60, 400, 1_100, 5_000, 30_000)


def mutated(random: Random, samples: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of the samples after one to eight changes.

    Args:
        random: Where all choices come from.
        samples: Good inputs.
        tokens: Words of the format, to be put anywhere.
    """
    data = random.choice(samples)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        data = random.choice(_CHANGES)(random, data, samples, tokens)[:LONGEST]
    return data


def _place(random: Random, data: bytes) -> int:
    return random.randrange(len(data) + 1)


def _put(random: Random, data: bytes, new: bytes) -> bytes:
    """New bytes in between, or instead of as many."""
    at = _place(random, data)
    return data[:at] + new + data[at + random.choice((0, len(new))) :]


def _flip(random: Random, data: bytes, *_) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randrange(1, 9) if data else 0):
        changed[random.randrange(len(changed))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(changed)


def _truncate(random: Random, data: bytes, *_) -> bytes:
    return data[: _place(random, data)]


def _cut(random: Random, data: bytes, *_) -> bytes:
    start = _place(random, data)
    return data[:start] + data[start + random.randrange(1, 40) :]


def _splice(random: Random, data: bytes, samples: Sequence[bytes], _) -> bytes:
    other = random.choice(samples)
    return data[: _place(random, data)] + other[_place(random, other) :]


def _repeat(random: Random, data: bytes, samples: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """A fragment over and over: what a reader goes through twice for each, it goes through a million times."""
    start = _place(random, data)
    fragment = data[start : start + random.choice((1, 1, 2, 3, 8, 40, 200))] or b" "
    if tokens and random.random() < 0.4:
        fragment = random.choice(tokens)
    if random.random() < 0.3:
        fragment += random.choice((b" ", b"\n", b",", b"|", b":", b'"', b"0", b"a"))
    size = random.choice((300, 1_000, 5_000, 20_000, REPEATED))
    return data[:start] + fragment * (size // len(fragment)) + data[start:]


def _nest(random: Random, data: bytes, *_) -> bytes:
    opening, closing = random.choice(NESTS)
    depth = random.choice(DEPTHS)
    closing = closing * random.choice((depth, depth, depth - 1, 0))
    at, end = sorted((_place(random, data), _place(random, data)))
    return data[:at] + opening * depth + data[at:end] + closing + data[end:]


def _number(random: Random, data: bytes, *_) -> bytes:
    found = list(re.finditer(rb"\d+", data[:20_000]))
    new = random.choice(NUMBERS).encode()
    if not found:
        return _put(random, data, new)
    chosen = random.choice(found)
    return data[: chosen.start()] + new + data[chosen.end() :]


def _odd(random: Random, data: bytes, *_) -> bytes:
    return _put(random, data, random.choice(ODD))


def _token(random: Random, data: bytes, _, tokens: Sequence[bytes]) -> bytes:
    return _put(random, data, random.choice(tokens)) if tokens else _odd(random, data)


def _lines(random: Random, data: bytes, *_) -> bytes:
    lines = data.split(b"\n")
    line = lines.pop(random.randrange(len(lines)))
    lines.insert(random.randrange(len(lines) + 1), line + line if random.random() < 0.5 else line)
    return b"\n".join(lines)


def changed_line(random: Random, samples: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One line of a sample alone, with odd numbers, a fragment over and over, or words of the format in it."""
    line = random.choice([line for line in random.choice(samples).split(b"\n") if line])
    for _ in range(random.choice((1, 1, 2, 3))):
        line = random.choice((_number, _number, _repeat, _token, _nest))(random, line, samples, tokens)[:LONGEST]
    return line + b"\n"


_CHANGES = (_flip, _truncate, _cut, _splice, _repeat, _repeat, _nest, _number, _number, _odd, _token, _token, _lines)


# ---- trees of JSON: what parses, and is not what was expected ----------------------------------------------------

# Written in their place, since no writer of JSON would: integers of 5,000 digits, nesting, a key that comes twice.
_RAW = {f"@raw{number}@": text for number, text in enumerate((*NUMBERS, *("[" * n + "]" * n for n in DEPTHS),
        *('{"a":' * n + "1" + "}" * n for n in DEPTHS), '{"a":1,"a":2}', "undefined", f'"{"9" * 5000}"', '"\\ud800"',
        '"\\u0000"'))}  # fmt: skip
_PLAIN = (None, True, False, 0, -1, 1, 0.5, 2**53, 2**63, 1e308, 5e-324, "", " ", "²", "9" * 400, "a" * 60_000,
"\n", "nan",
          [], {}, [[]], [None], {"": {}}, {"a": [1, {"b": 2}]}, "2026-01-01", "1e400", "\x1b[0m",
          [0] * 3_000)  # fmt: skip


def odd_value(random: Random) -> Any:
    """A value for a tree that `changed_tree` writes."""
    return random.choice(list(_RAW)) if random.random() < 0.5 else copy.deepcopy(random.choice(_PLAIN))


def changed_tree(random: Random, tree: Any) -> str:
    """A tree as JSON, one to four of its values replaced, left out, or under another name."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random.choice((1, 1, 2, 4))):
        tree = _changed(random, tree)
    text = json.dumps(tree, ensure_ascii=random.random() < 0.5, indent=random.choice((None, None, 1)))
    return re.sub(r'"(@raw\d+@)"', lambda match: _RAW[match[1]], text)


def _changed(random: Random, tree: Any) -> Any:
    places = list(_places(tree))
    if not places or random.random() < 0.03:
        return odd_value(random)
    inside, key = random.choice(places)
    action = random.random()
    if action < 0.1:
        del inside[key]
    elif action < 0.2 and isinstance(inside, dict):
        inside[str(random.choice(_PLAIN))] = inside[key]
    else:
        inside[key] = odd_value(random)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each object or list with each of its keys, from the top to the leaves; of long lists the first ones."""
    if isinstance(tree, (dict, list)):
        for key in list(tree) if isinstance(tree, dict) else range(min(len(tree), 8)):
            yield tree, key
            yield from _places(tree[key])
