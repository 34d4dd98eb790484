"""One user at work in the mount: every way in which files are changed, at random.

A writer has names of its own, so that what it did to each is one sequence. It ends when its mount dies.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.support.interferences import Scene, of
from tests.support.programs import PROGRAMS, Program, beside

from jobfs import names

from .calls import Calls, Place, UnreadableError
from .contents import ABSENT, DIRECTORY, Content
from .ledger import BLIND, DEAD, is_local

#: One program of the table for each way to save a file.
_WAYS = list({each.way: each for each in PROGRAMS if each.writes}.values())
#: Those that can make a file; they never replace one that the job has just made.
_MAKERS = [
    replace(each, flags=each.flags | os.O_EXCL)
    for each in _WAYS
    if each.flags & os.O_CREAT and not each.reads
]
#: None of these makes a file of its own line only: where the job has just deleted the file, nothing else would be there.
_SAVES = [each if each.rewrites else replace(each, flags=each.flags & ~os.O_CREAT) for each in _WAYS]
#: Those that run as processes: they lose no line by themselves and leave no other file behind, wherever the mount is killed.
#: None makes the file, as above.
_PROCESSES = [
    each for each in PROGRAMS if each.writes and each.reliable
    and not (each.by_rename or each.slow or each.detaches or each.closes_blindly or each.flags & os.O_CREAT)
]  # fmt: skip


def files_of(writer: str) -> list[str]:
    """Return the files that a writer works on."""
    places = ["", writer, f"{writer}/d0", f"{writer}/d1"]
    files = [names.join(place, f"{writer}-{letter}.txt") for place in places for letter in "abc"]
    return files + [f"{writer}/new{n}.md" for n in range(4)]


class Writer:
    """`run` in a thread of its own. `unexpected` collects what no healthy mount answers."""

    def __init__(self, name: str, place: Place, seed: int) -> None:
        self.name, self._place, self._ledger = name, place, place.ledger
        self.unexpected: list[str] = []
        self._random, self._calls = random.Random(seed), Calls(place)
        #: Files that stay open during the next operation.
        self._held: list[int] = []
        self._files = files_of(name)
        self._all_directories = [f"{name}/{kind}{n}" for kind in "dn" for n in range(3)]

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop, or until the mount dies."""
        while not stop.is_set():
            (operation,) = self._random.choices(list(_OPERATIONS), list(_OPERATIONS.values()))
            held, self._held = self._held, []
            try:
                getattr(self, f"_{operation}")()
            except UnreadableError as error:
                self.unexpected.append(str(error))
            except OSError as error:
                if error.errno in DEAD or stop.is_set():
                    break
                text = f"{operation} fails: {error}"
                self._ledger.tell(f"{self.name}: {text}")
                self.unexpected += [text] * self._place.calm
            finally:
                self._release(held)
        self._release(self._held)

    def _release(self, held: list[int]) -> None:
        for fh in held:
            with suppress(OSError):
                self._calls.close(fh)

    def _is(self, path: str, state: Content) -> bool:
        return self._ledger.at(path) == {state} and self._ledger.usable(path)

    def _directories(self, state: Content) -> list[str]:
        return [path for path in self._all_directories if self._is(path, state)]

    def _any_file(self) -> str:
        there = [path for path in self._files if not self._ledger.at(path) & {ABSENT, DIRECTORY}]
        return self._random.choice([path for path in there if self._ledger.usable(path)] or [""])

    def _any_free(self) -> str:
        free = [path for path in self._files if self._is(path, ABSENT) and self._has_parent(path)]
        return self._random.choice(free or [""])

    def _has_parent(self, path: str) -> bool:
        return not names.parent(path) or self._ledger.at(names.parent(path)) == {DIRECTORY}

    def _content(self, path: str, *, whole: bool) -> Content:
        """A new content; or what may be at the path, with a line at the end."""
        large = whole and self._random.random() < 1 / 31
        size = self._random.randrange(*((100_000, 600_000) if large else (20, 3000)))
        there = [b""] if whole else [content.data for content in self._ledger.at(path)]
        return self._place.contents.make(self.name, size, after=self._random.choice(there))

    # Saves

    def _save_by(self, one: Program, path: str) -> None:
        self._calls.save(one, path, lambda: self._content(path, whole=one.rewrites))

    def _save(self) -> None:
        """Save a file by the calls of a program; some programs set its mode then."""
        path, one = self._any_file(), self._random.choice(_SAVES)
        drafts = [beside(one.draft, path)] * one.by_rename
        if (
            path
            and all(self._is(draft, ABSENT) for draft in drafts)
            and self._ledger.usable(beside(one.backup, path))
        ):
            self._save_by(one, path)
            if self._random.random() < 0.2:
                self._calls.chmod(path, self._random.choice([0o644, 0o755, 0o600, 0o700]))

    def _make(self, path: str) -> None:
        if path:
            self._save_by(self._random.choice(_MAKERS), path)

    def _new_file(self) -> None:
        self._make(self._any_free())

    def _run_program(self) -> None:
        """A program of the table adds a line, in a process of its own."""
        path = self._any_file()
        if not path:
            return
        one, new = self._random.choice(_PROCESSES), self._content(path, whole=False)
        change, line = self._ledger.put(path, new, BLIND, f"{one.name}:"), new.added[:-1].decode()
        done = self._place.forks.output(
            one.command(self._place.root / path, line), dict(os.environ), Path("/"), execute=True
        )
        if line in done.stdout:
            self._ledger.keep(change, durable=bool(one.syncs))
            return
        try:
            os.stat(self._place.root)
            raise OSError(errno.EIO, done.stderr[-80:])
        except OSError as error:
            self._ledger.failed(change, error, half_done=True)
            raise

    # Names

    def _rename_file(self) -> None:
        path = self._any_file()
        target = self._random.choice([self._any_file(), self._any_free()])
        if path and target and path != target:
            self._calls.rename(path, target)

    def _rename_directory(self) -> None:
        """With a file in it that was closed just now."""
        old, new = self._directories(DIRECTORY), self._directories(ABSENT)
        if not old or not new:
            return
        source, target = self._random.choice(old), self._random.choice(new)
        inside = names.join(source, f"unsent{self._random.randrange(3)}.txt")
        if self._is(inside, ABSENT):
            self._make(inside)
        self._calls.rename(source, target)

    def _unlink_file(self) -> None:
        if path := self._any_file():
            self._calls.unlink(path)

    def _unlink_unsent(self) -> None:
        if path := self._any_free():
            self._make(path)
            self._calls.unlink(path)

    def _unlink_open(self) -> None:
        """It stays readable and writable, and never comes back."""
        if path := self._any_file():
            fh = self._calls.open(path, os.O_RDWR)
            try:
                self._calls.unlink(path)
                os.pwrite(fh, b"never to be seen", 0)
            finally:
                self._calls.close(fh)

    def _make_directory(self) -> None:
        if free := self._directories(ABSENT):
            self._calls.mkdir(self._random.choice(free))

    def _remove_directory(self) -> None:
        with self._ledger.lock:
            used = [path for path, contents in self._ledger.options.items() if contents != {ABSENT}]
        empty = [
            path
            for path in self._directories(DIRECTORY)
            if not any(names.is_below(other, path) for other in used)
            # What the last mount did not live to close may be in there, and is not in the ledger.
            and not any(
                is_local(name) or names.parse_second_version(name)
                for name in os.listdir(self._place.root / path)
            )
        ]
        if empty:
            self._calls.rmdir(self._random.choice(empty))

    def _look(self) -> None:
        """What other programs of this machine do, of the list."""
        if path := self._any_file():
            act = self._random.choice(of("program"))
            act.act(Scene(path, None, work=self._calls, handles=self._held))


#: How often each is drawn.
_OPERATIONS = {
    "save": 53, "new_file": 12, "run_program": 6, "rename_file": 6, "rename_directory": 5, "unlink_file": 6,
    "unlink_unsent": 4, "unlink_open": 3, "make_directory": 4, "remove_directory": 4, "look": 5,
}  # fmt: skip
