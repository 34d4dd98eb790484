"""Numbers as JavaScript's `Number` reads them from text, which is how the service reads take and skip (wire-facts.md)."""

from __future__ import annotations

import math
import re

#: White space in JavaScript.
_SPACE = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_OTHER = re.compile(r"0(?:[xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)")


def number(text: str) -> float:
    """The value of `Number(text)`; an infinity for a number beyond all others, NaN for what is none."""
    text = text.strip(_SPACE)
    if not text:
        return 0.0
    if _DECIMAL.fullmatch(text):
        return float(text)
    if _OTHER.fullmatch(text):
        digits = int(text, 0)
        return float(digits) if digits.bit_length() <= 1024 else math.inf
    return math.inf if text in ("Infinity", "+Infinity") else -math.inf if text == "-Infinity" else math.nan
