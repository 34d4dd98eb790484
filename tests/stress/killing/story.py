"""The report of a round with a violation: what was promised, what was found, and the way there."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from tests.support.serverside import visible

if TYPE_CHECKING:
    from .lane import Round

_PATH = re.compile(r"[\w./~-]*\b(?:w\d|new|unsent|sed|d\d|n\d)[\w./~-]*")
_WHO = re.compile(r"(?:w\d|job|seed) #\d+")


def report(one: Round, violations: list[str]) -> str:
    """Writes `report.txt` into the chapter's directory; returns the part that a person reads first."""
    words = {match for text in violations for match in [*_PATH.findall(text), *_WHO.findall(text)]}
    story = [f"{_clock(when)} {text}" for when, text in one.ledger.story]
    concerned = [
        line
        for line in story
        if any(word in line for word in words) or line[13:].startswith(("mounted", "killed"))
    ]
    head = [
        f"VIOLATION in seed/chapter/round {one.name}",
        f"conditions: {one.conditions}",
        *[f"  {text}" for text in violations],
        "",
        "what was attempted and kept there:",
        *[f"  {line}" for line in concerned[-80:]],
        "",
        f"all of it, and the requests: {one.chapter.home}",
    ]
    requests = [
        f"{_wall(entry.time)} {entry.operation} {entry.item} {entry.target} {entry.query} -> {entry.status} "
        f"{entry.fault} ({entry.ms} ms)"
        for entry in one.server.log.entries()
    ]
    tree = [
        f"{path}: {'a directory' if data is None else one._contents.known(data)}"
        for path, data in visible(one.server).items()
    ]
    parts = {
        "": head,
        "the whole story": story,
        "the server": tree,
        "requests": requests,
        "the mount's log": one.mounted.log.splitlines(),
    }
    text = "\n".join(f"{title.upper()}\n{chr(10).join(lines)}\n" for title, lines in parts.items())
    (one.chapter.home / "report.txt").write_text(text)
    return "\n".join(head)


def _clock(monotonic: float) -> str:
    return _wall(time.time() - time.monotonic() + monotonic)


def _wall(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03}"
