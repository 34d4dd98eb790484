"""Bad weather: a share of the requests fails in every way the local server knows, while several people work."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.stress.report import Check, at_most, none
from tests.support.judge import ABSENT, State

from jobfs.emulator import Rule

from .bounds import Bounds
from .calls import RefusedError, listed
from .stage import Stage

#: The share of requests that fail, all kinds together.
SHARE = 0.1
#: Seconds that `late` and `slow` requests are late; shorter than the mounts' --request-lifetime.
LATE = 0.3
#: In so many calls one request that is carried out late may flip a name.
_CALLS_A_FLIP = 100
#: Of so many lost answers one may leave a conflict copy, and two of fewer: one in 80 does (36 runs of 9 answers left 4).
ANSWERS_A_CONFLICT = 10
#: Files of each user, and what is in them before.
_FILES, _FIRST = 12, b"at first"


def bad_weather(stage: Stage, storm: float, latency: float, users: int = 8) -> None:
    """Users save, read, rename and unlink; no content is lost, no wrong byte is read, nothing piles up."""
    stage.start(
        {f"u{user}/f{number:02}": _FIRST for user in range(users) for number in range(_FILES)},
        latency=latency, timeout=5, request_lifetime=2,
    )  # fmt: skip
    for _ in os.walk(stage.path):
        pass
    stage.server.break_with(Rule("weather", rate=SHARE, delay=LATE))
    people = [User(stage, f"u{user}", random.Random(stage.random.random())) for user in range(users)]
    end = time.monotonic() + storm
    stage.together(*[partial(user.work, end) for user in people])
    stage.server.mend()
    stage.row.what += f"; of {stage.calls.done:,} calls failed {listed(stage.calls.told)}"
    flipped = stage.calls.done // _CALLS_A_FLIP + 1
    stage.check(*seen_by(people, flipped), at_most("seconds of the slowest call", stage.calls.slowest, 5 + 5))
    conflicts = max(2, -(-stage.server.lost_answers() // ANSWERS_A_CONFLICT))
    stage.finish(Bounds(users, users * _FILES, conflicts=conflicts, flipped=flipped), within=30)


def seen_by(people: Iterable[User], flips: int) -> list[Check]:
    """What users have read is what they wrote, and no more names than that were changed by a late request."""
    wrong = [text for user in people for text in user.wrong]
    flipped = sum(user.flipped for user in people)
    return [
        none("reads of what nobody wrote", wrong),
        at_most("looks at a name that a late request changed", flipped, flips),
    ]


class User:
    """Works in a directory of his own, where nobody else writes."""

    def __init__(self, stage: Stage, home: str, chance: random.Random) -> None:
        self._stage, self._home, self._random = stage, home, chance
        self._calls, self._expected = stage.calls, stage.expected
        self._number = 0
        self._written: set[bytes] = {_FIRST}
        #: How many times a name was free, or taken, because a request had been carried out late.
        self.flipped = 0
        self.wrong: list[str] = []

    def work(self, end: float) -> None:
        """Until then."""
        save, write = partial(self._put, fsync=True), partial(self._put, fsync=False)
        steps = (save, save, save, write, self._read, self._replace, self._rename, self._unlink)
        while time.monotonic() < end and not self._stage.expired:
            try:
                self._random.choice(steps)(f"{self._home}/f{self._random.randrange(_FILES):02}")
            except RefusedError:
                continue

    def _data(self) -> bytes:
        self._number += 1
        data = b"%s wrote %d\n" % (self._home.encode(), self._number) * self._random.randint(1, 200)
        self._written.add(data)
        return data

    def _at(self, path: str) -> Path:
        return self._stage.path / path

    def _may_save(self, path: str) -> bytes:
        """What is about to be saved there."""
        data = self._data()
        self._expected.doubt(path, b"")
        self._expected.doubt(path, data)
        return data

    def _put(self, path: str, *, fsync: bool) -> None:
        if self._expected.at(path) == [ABSENT]:
            with suppress(OSError):
                self._notice(path, self._at(path).read_bytes())
        data = self._may_save(path)
        self._calls.save(self._at(path), data, local=False, sync=fsync)
        self._expected.put(path, data)

    def _read(self, path: str) -> None:
        with self._calls.of("read", local=False):
            try:
                found: State = self._at(path).read_bytes()
            except FileNotFoundError:
                found = ABSENT
        self._notice(path, found)

    def _notice(self, path: str, found: State) -> None:
        """What a name shows is looked at: what was renamed may be back at its old name, and whoever writes there replaces it."""
        expected = self._expected.at(path)
        if found in expected:
            return
        if found is not ABSENT and (found not in self._written or ABSENT not in expected):
            self.wrong.append(f"{path} reads as {found!r:.60}")
            return
        self.flipped += 1
        for number in range(_FILES if found is not ABSENT else 0):
            other = f"{self._home}/f{number:02}"
            if found in self._expected.at(other):
                self._expected.doubt(other, ABSENT)

    def _replace(self, path: str) -> None:
        draft = f"{path}.tmp"
        data = self._may_save(draft)
        self._calls.save(self._at(draft), data, local=False)
        self._expected.put(draft, data)
        self._move(draft, path)

    def _rename(self, path: str) -> None:
        if ABSENT not in self._expected.at(path):
            self._move(path, f"{self._home}/f{self._random.randrange(_FILES):02}")

    def _move(self, old: str, new: str) -> None:
        if old == new:
            return
        states = self._expected.at(old)
        for state in states:
            self._expected.doubt(new, state)
        self._expected.doubt(old, ABSENT)
        with self._calls.of("rename", local=False):
            os.rename(self._at(old), self._at(new))
        self._expected.put(new, *states)
        self._expected.forget(old)

    def _unlink(self, path: str) -> None:
        if ABSENT in self._expected.at(path):
            return
        self._expected.doubt(path, ABSENT)
        with self._calls.of("unlink", local=False):
            os.unlink(self._at(path))
        self._expected.forget(path)
