"""Patterns as shells and JavaScript's libraries read them, for a find that takes its argument as one."""

from __future__ import annotations

import re
from collections.abc import Callable

_TOKEN = re.compile(r"\*\*/?|\*|\?|\[!?\]?[^\]/]*\]|[{},]|.", re.DOTALL)


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a path fits `pattern`: `*` and `?` stay within a name, `**` does not, `[a-z]`, `[!a]`, `{a,b}`."""
    try:
        expression = re.compile(_expression(pattern), re.DOTALL)
    except re.error:  # a class like [z-a] fits nothing
        return lambda path: False
    return lambda path: expression.fullmatch(path) is not None


def _expression(pattern: str) -> str:
    whole = pattern.count("{") == pattern.count("}")
    depth, parts = 0, []
    for token in _TOKEN.findall(pattern):
        if token in "{}," and whole and (token == "{" or depth):
            depth += {"{": 1, "}": -1, ",": 0}[token]
            parts.append({"{": "(?:", "}": ")", ",": "|"}[token])
        else:
            parts.append(_part(token))
    return "".join(parts)


def _part(token: str) -> str:
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
