"""Parsers for the texts of a request: numbers, the Range header, patterns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

#: White space in JavaScript.
_SPACE = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_OTHER = re.compile(r"0(?:[xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)")


def parse_number(text: str) -> float:
    """Return the value of JavaScript's `Number(text)`, which is how the service parses take and skip (api/wire.md).

    Returns an infinity if the number is too large for a float, NaN if `text` is not a number.
    """
    text = text.strip(_SPACE)
    if not text:
        return 0.0
    if _DECIMAL.fullmatch(text):
        return float(text)
    if _OTHER.fullmatch(text):
        digits = int(text, 0)
        return float(digits) if digits.bit_length() <= 1024 else math.inf
    return math.inf if text in ("Infinity", "+Infinity") else -math.inf if text == "-Infinity" else math.nan


_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the start and the exclusive end of the bytes to send; None for the whole, as HTTP allows; equal ends for a 416."""
    match = _RANGE.fullmatch(header) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return _last_bytes(int(match[2]), size)
    start, last = int(match[1]), int(match[2] or size)
    if match[2] and last < start:
        return None
    return (start, min(last + 1, size)) if start < size else (0, 0)


def _last_bytes(count: int, size: int) -> tuple[int, int]:
    return (max(size - count, 0), size) if count and size else (0, 0)


_TOKEN = re.compile(r"\*\*/?|\*|\?|\[!?\]?[^\]/]*\]|[{},]|.", re.DOTALL)


def make_matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that matches paths with `pattern`, as shells and JavaScript's libraries do.

    `*` and `?` match within a name, `**` across names; `[a-z]`, `[!a]` and `{a,b}` work, too.
    """
    try:
        expression = re.compile(_to_regex(pattern), re.DOTALL)
    except re.error:  # a class like [z-a] matches nothing
        return lambda path: False
    return lambda path: expression.fullmatch(path) is not None


def _to_regex(pattern: str) -> str:
    whole = pattern.count("{") == pattern.count("}")
    depth, parts = 0, []
    for token in _TOKEN.findall(pattern):
        if token in "{}," and whole and (token == "{" or depth):
            depth += {"{": 1, "}": -1, ",": 0}[token]
            parts.append({"{": "(?:", "}": ")", ",": "|"}[token])
        else:
            parts.append(_token_regex(token))
    return "".join(parts)


def _token_regex(token: str) -> str:
    if token == "**/":
        return "(?:.*/)?"
    if token == "**":
        return ".*"
    if token in "*?":
        return "[^/]*" if token == "*" else "[^/]"
    if len(token) > 2:
        inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return "[^/" + inside[1:] + "]" if inside[0] in "!^" else "[" + inside + "]"
    return re.escape(token)
