"""Bad weather: a share of the requests meets the faults of the list, while several people work."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from tests.stress.report import Check, at_most, none
from tests.support.interferences import FAULTS, UNANSWERED
from tests.support.judge import ABSENT, State
from tests.support.programs import PROGRAMS, Program, save_by

from jobfs.emulator import RequestLog

from .bounds import Bounds
from .calls import OVERWRITE, NotedCalls, RefusedError, listed
from .stage import Stage

#: The share of requests that fail, all kinds together.
_SHARE = 0.1
#: Seconds that `late` and `slow` requests are late; shorter than the mounts' --request-lifetime.
_LATE = 0.3
#: Statuses and headers of answers that are errors.
_ANSWERS = ((500, None), (502, "1"), (504, "+1"))
#: In so many steps one request that is carried out late may flip a name.
_STEPS_A_FLIP = 35
#: Of so many lost answers one may leave a conflict copy, and two of fewer: one in 80 does (36 runs of 9 answers left 4).
_ANSWERS_A_CONFLICT = 10
#: Files of each user, and what is in them before.
_FILES, _FIRST = 12, b"at first"

#: One program of the table for each way to give a file new content as a whole; none leaves a file behind that stays local.
_SAVES = list(
    {each.way: each for each in PROGRAMS if each.writes and each.rewrites and each.reliable}.values()
)


def strike(stage: Stage) -> None:
    """From now on, let a share of all requests meet a fault of the list, each row as often; no answer is false."""
    rows = [fault.name for fault in FAULTS if fault.answer != "false"]
    draws = list(itertools.product(rows, _ANSWERS))
    for number, (name, (status, again)) in enumerate(draws):
        # The first rule that picks a request wins: each sees what those before it have left.
        rate = _SHARE / (len(draws) - number * _SHARE)
        stage.act("network", name, rate=rate, times=None, delay=_LATE, status=status, retry_after=again)


def needless_copies(log: RequestLog) -> int:
    """Return how many conflict copies lost answers may have left; of many requests, extrapolate from the last ones."""
    entries = log.entries()
    lost = sum(entry.is_change and entry.fault in UNANSWERED for entry in entries)
    return max(2, -(-(lost * log.count() // len(entries)) // _ANSWERS_A_CONFLICT))


def bad_weather(stage: Stage, storm: float, latency: float, users: int = 8) -> None:
    """Users save, read, rename and unlink; no content is lost, no wrong byte is read, nothing piles up."""
    stage.start(
        {f"u{user}/f{number:02}": _FIRST for user in range(users) for number in range(_FILES)},
        latency=latency, timeout=5, request_lifetime=2,
    )  # fmt: skip
    for _ in os.walk(stage.path):
        pass
    stage.notes.local = frozenset({"open to replace", "write", "truncate", "close"})
    strike(stage)
    people = [User(stage, f"u{number}") for number in range(users)]
    end = time.monotonic() + storm
    stage.together(*[partial(user.work, end) for user in people])
    stage.server.faults.clear()
    steps = sum(user.steps for user in people)
    flipped = steps // _STEPS_A_FLIP + 1
    stage.row.what += f"; {steps:,} steps; of {stage.notes.done:,} calls failed {listed(stage.notes.refused)}"
    stage.check(*seen_by(people, flipped), at_most("seconds of the slowest call", stage.notes.slowest, 5 + 5))
    conflicts = needless_copies(stage.server.log)
    stage.finish(Bounds(users, users * _FILES, conflicts=conflicts, flipped=flipped), within=30)


def seen_by(people: Iterable[User], flips: int) -> list[Check]:
    """Check that users have read what they wrote, and that late requests changed no more names than that."""
    wrong = [text for user in people for text in user.wrong]
    flipped = sum(user.flipped for user in people)
    return [
        none("reads of what nobody wrote", wrong),
        at_most("looks at a name that a late request changed", flipped, flips),
    ]


class User(NotedCalls):
    """Works in a directory where nobody else writes; all files are read and written from their start."""

    def __init__(self, stage: Stage, home: str) -> None:
        super().__init__(stage.path, stage.notes)
        self._stage, self._home, self._expected = stage, home, stage.expected
        self._random = random.Random(stage.random.random())
        self._lines = itertools.count(1)
        self._paths = {f"{home}/f{number:02}" for number in range(_FILES)}
        self._written: set[State] = {_FIRST}
        #: Of each open file the path, and what was written to it.
        self._open, self._new = dict[int, str](), dict[int, bytes]()
        #: How many times a name was free, or taken, because a request had been carried out late.
        self.flipped = 0
        self.steps = 0
        self.wrong: list[str] = []

    def work(self, end: float) -> None:
        """Work until `end` (monotonic)."""
        saves = [partial(self.edit, one) for one in _SAVES]
        steps: list[Callable[[str], object]] = [*saves, self.look, self.look, self._rename_any, self.unlink]
        while time.monotonic() < end and not self._stage.expired:
            self.steps += 1
            with suppress(RefusedError):
                self._random.choice(steps)(self._any())

    def _any(self) -> str:
        return f"{self._home}/f{self._random.randrange(_FILES):02}"

    def edit(self, one: Program, path: str) -> None:
        """Add a line as the program does; where nothing is, make the file."""
        if self._expected.at(path) == [ABSENT]:
            with suppress(RefusedError):
                self.look(path)
            one = OVERWRITE
        line = b"%s wrote %d\n" % (self._home.encode(), next(self._lines)) * self._random.randint(1, 200)
        save_by(self, one, path, lambda text: text + line)

    def _rename_any(self, path: str) -> None:
        if ABSENT not in self._expected.at(path) and (new := self._any()) != path:
            self.rename(path, new)

    def _notice(self, path: str, found: State) -> None:
        """Judge what a name shows: what was renamed may be back at its old name, and whoever writes there replaces it."""
        expected = self._expected.at(path)
        if found in expected:
            return
        if found is not ABSENT and (found not in self._written or ABSENT not in expected):
            self.wrong.append(f"{path} reads as {found!r:.60}")
            return
        self.flipped += 1
        for other in self._paths if found is not ABSENT else ():
            if found in self._expected.at(other):
                self._expected.doubt(other, ABSENT)

    def open(self, path: str, flags: int) -> int:
        self._paths.add(path)
        if flags & os.O_TRUNC:
            self._expected.doubt(path, b"")
        try:
            fh = super().open(path, flags)
        except RefusedError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self._notice(path, ABSENT)
            raise
        self._open[fh] = path
        return fh

    def read_whole(self, fh: int) -> bytes:
        found = super().read_whole(fh)
        self._notice(self._open[fh], found)
        return found

    def write(self, fh: int, data: bytes, offset: int) -> None:
        self._written.add(data)
        self._expected.doubt(self._open[fh], data)
        super().write(fh, data, offset)
        self._new[fh] = data

    def close(self, fh: int) -> None:
        path, new = self._open.pop(fh), self._new.pop(fh, None)
        super().close(fh)
        if new is not None:
            self._expected.put(path, new)

    def rename(self, old: str, new: str) -> None:
        states = self._expected.at(old)
        for state in states:
            self._expected.doubt(new, state)
        self._expected.doubt(old, ABSENT)
        super().rename(old, new)
        self._expected.put(new, *states)
        self._expected.forget(old)

    def unlink(self, path: str) -> None:
        if ABSENT not in self._expected.at(path):
            self._expected.doubt(path, ABSENT)
            super().unlink(path)
            self._expected.forget(path)
