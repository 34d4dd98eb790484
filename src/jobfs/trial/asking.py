"""What a question of a try works with: the client, raw requests, and files in the try's directory; and what it comes to."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from jobfs import names
from jobfs.api.create import Form
from jobfs.api.watched import Exchange, Watched
from jobfs.api.wire import Answer
from jobfs.nodes import Item, Permission
from jobfs.trial.place import Place

#: Gives the mount point of a temporary mount that shows what is below a directory of the workspace.
Mounting = Callable[[str], AbstractContextManager[Path]]

#: Seconds after which even a clock that shows whole seconds shows another one; and one that shows more.
_COARSE, _FINE = 1.1, 0.02


class Trial:
    """One try of one server. `scratch` is a directory on this machine for what is sent.

    `facts`: what was found out, by name. `stamps`: every time that items of the try showed. `began`: something was sent that
    has to be taken away.
    """

    def __init__(
        self, watched: Watched, place: Place, scratch: Path, mounting: Mounting | None = None
    ) -> None:
        self.watched = watched
        self.client = watched.client
        self.place = place
        self.directory = place.path
        self.mounting = mounting
        self.facts: dict[str, Any] = {}
        self.began = False
        self.stamps: set[str] = set()
        self._scratch = scratch
        self._number = 0
        self._offsets: list[float] = []
        self._latest = 0.0

    def path(self, name: str) -> str:
        """The path of a name in the try's directory."""
        return names.join(self.directory, name)

    def source(self, content: bytes) -> tuple[Path, int]:
        """A file on this machine with this content, and its size, for a create."""
        self._number += 1
        path = self._scratch / f"{self._number}"
        path.write_bytes(content)
        return path, len(content)

    def file(self, name: str, content: bytes = b"?", permission: Permission = Permission.READ_WRITE) -> Item:
        """A new file in the try's directory. Raises ApiError."""
        began = time.time()
        item = self.client.create_file(self.path(name), *self.source(content), permission)
        self.saw(item)
        if item.updated_ns:
            self._offsets.append(item.updated_ns / 1e9 - (began + time.time()) / 2)
        return item

    def make_directory(self, name: str) -> Item:
        """A new directory in the try's directory. Raises ApiError."""
        return self.saw(self.client.create_directory(self.path(name), Permission.READ_WRITE))

    def saw(self, item: Item) -> Item:
        """Note the times that an item of the try shows."""
        self.stamps |= {item.created_at, item.updated_at} - {""}
        self._latest = time.monotonic()
        return item

    def tick(self) -> None:
        """Wait until the server's `updatedAt` would show that an item was changed since it was made."""
        until = self._latest + (_FINE if self.digits() else _COARSE)
        time.sleep(max(until - time.monotonic(), 0.0))

    def digits(self) -> int:
        """Digits of a second that the times seen so far show; 0 for whole seconds."""
        fractions = (re.search(r"\.(\d+)", stamp, re.ASCII) for stamp in self.stamps)
        return max((len(found[1].rstrip("0")) for found in fractions if found), default=0)

    def offset(self) -> float | None:
        """Seconds that the server's clock is ahead of ours, by the times of what was made; None if they can't be read."""
        return statistics.median(self._offsets) if self._offsets else None

    def likeness(self, form: Form) -> tuple[bool, bool]:
        """How far a form of a create is from the one that a mount would choose here."""
        return form.encoding != "multipart", form.long_type is not self.facts["long"]

    def bytes_of(self, item_id: str) -> bytes:
        """The whole content of a file. Raises ApiError."""
        with self.client.download(item_id) as body:
            return b"".join(body.chunks())


def data_of(answer: Answer) -> dict[str, Any]:
    """`data` of an answer; empty if it has none."""
    try:
        data = json.loads(answer.body)["data"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def items_of(answer: Answer) -> list[dict[str, Any]]:
    """The items of an answer to find or list, as they came."""
    items = data_of(answer).get("workspaceItems")
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def item_of(answer: Answer) -> tuple[str, dict[str, Any]]:
    """What an answer with one item calls it, and the item as it came; empty if there is none."""
    for name, value in data_of(answer).items():
        if isinstance(value, dict):
            return name, value
    return "", {}


# What it comes to


class Verdict(StrEnum):
    """Whether an answer is good: as wished; otherwise, but jobfs copes; not to be relied on; none came; not asked."""

    GOOD = "good"
    COPES = "works"
    BAD = "NOT GOOD"
    NO_ANSWER = "no answer"
    SKIPPED = "not asked"


@dataclass(frozen=True)
class Finding:
    """An answer in words, whether it is good, and what it means for a mount; `facts` say the same to programs."""

    answered: str
    verdict: Verdict = Verdict.GOOD
    meaning: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A question, its finding, and the requests that it took."""

    name: str
    asked: str
    finding: Finding
    exchanges: tuple[Exchange, ...] = ()

    @property
    def well(self) -> bool:
        """False where something that mounts rely on is not as it has to be, or is not known."""
        return self.finding.verdict not in (Verdict.BAD, Verdict.NO_ANSWER)


def good(answered: str, meaning: str = "", **facts: Any) -> Finding:
    """A finding that is as wished."""
    return Finding(answered, Verdict.GOOD, meaning, facts)


def copes(answered: str, meaning: str, **facts: Any) -> Finding:
    """A finding that costs something, and no more."""
    return Finding(answered, Verdict.COPES, meaning, facts)


def bad(answered: str, meaning: str, **facts: Any) -> Finding:
    """A finding that a promise of jobfs does not survive."""
    return Finding(answered, Verdict.BAD, meaning, facts)
