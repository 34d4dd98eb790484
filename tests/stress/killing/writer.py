"""One user at work in the mount, and the job past it: every way that files are changed, at random, each noted in the ledger.

A writer has names of its own, so that what it did to each is one sequence. It ends when its mount dies.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.forks import ForkServer
from tests.support.interferences import Interference, Scene, named
from tests.support.programs import PROGRAMS

from jobfs import names
from jobfs.emulator import Server

from .contents import ABSENT, DIRECTORY, Content, Contents
from .ledger import BLIND, DEAD, Change, Ledger, is_local

#: Nothing was done, and the job has made it so.
_REFUSALS = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM,
}  # fmt: skip
#: Programs that add a line, lose nothing by themselves and leave no other file behind, wherever the mount is killed.
_RELIABLE = [each for each in PROGRAMS if each.writes and each.reliable and not (each.by_rename or each.slow)]
_STEADY = [each for each in _RELIABLE if not (each.detaches or each.closes_blindly)]
#: Not those that make the file: where the job has just deleted it, only their own line would be there.
_PROGRAMS = [each for each in _STEADY if not each.flags & os.O_CREAT]
#: What a file shows at most.
_WHOLE = 8 << 20


class Writer:
    """`run` in a thread of its own. `unexpected` collects what no healthy mount answers."""

    def __init__(
        self,
        number: int,
        root: Path,
        ledger: Ledger,
        contents: Contents,
        seed: int,
        forks: ForkServer,
        *,
        calm: bool,
    ) -> None:
        """`forks` starts programs. `calm`: nothing goes wrong and the job is quiet, so that no call may fail."""
        self.name = f"w{number}"
        self.root, self.ledger, self.contents, self.calm = root, ledger, contents, calm
        self.unexpected: list[str] = []
        self._random, self._forks = random.Random(seed), forks
        places = ["", self.name, f"{self.name}/d0", f"{self.name}/d1"]
        self.files = [
            names.join(place, f"{self.name}-{letter}.txt") for place in places for letter in "abc"
        ] + [f"{self.name}/new{n}.md" for n in range(4)]
        self.directories = [f"{self.name}/{letter}{n}" for letter in "dn" for n in range(3)]

    def run(self, stop: threading.Event) -> None:
        """Works until told to stop, or until the mount dies."""
        while not stop.is_set():
            (operation,) = self._random.choices(list(_OPERATIONS), list(_OPERATIONS.values()))
            try:
                getattr(self, f"_{operation}")()
            except OSError as error:
                if error.errno in DEAD or stop.is_set():
                    return
                text = f"{operation} fails: {error}"
                self.ledger.tell(f"{self.name}: {text}")
                self.unexpected += [text] * self.calm

    def _files(self) -> list[str]:
        there = [path for path in self.files if not self.ledger.at(path) & {ABSENT, DIRECTORY}]
        return [path for path in there if self.ledger.usable(path)]

    def _is(self, path: str, state: Content) -> bool:
        return self.ledger.at(path) == {state} and self.ledger.usable(path)

    def _directories(self, state: Content) -> list[str]:
        return [path for path in self.directories if self._is(path, state)]

    def _has_parent(self, path: str) -> bool:
        return not names.parent(path) or self.ledger.at(names.parent(path)) == {DIRECTORY}

    def _any_file(self) -> str:
        return self._random.choice(self._files() or [""])

    def _any_free(self) -> str:
        free = [path for path in self.files if self._is(path, ABSENT) and self._has_parent(path)]
        return self._random.choice(free or [""])

    def _content(self, after: bytes = b"") -> Content:
        large = self._random.random() < 1 / 31
        size = self._random.randrange(*((100_000, 600_000) if large else (20, 3000)))
        return self.contents.make(self.name, size, after=after)

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        """An open file, closed only if all went well, and then the caller's with has ended."""
        handle = os.open(self.root / path, flags | os.O_CLOEXEC, 0o644)
        try:
            yield handle
        except BaseException:
            with suppress(OSError):
                os.close(handle)
            raise

    def _seen(self, handle: int, path: str) -> Content:
        """What the open file holds: one whole content, of those that may be there."""
        data = os.pread(handle, _WHOLE, 0)
        seen = self.contents.of(data)
        if seen is None:
            # Died in the middle of it, the mount has given a part: then it says so now.
            os.pread(handle, 1, len(data))
            raise UnreadableError(f"{path} read as {self.contents.known(data)}")
        if seen not in self.ledger.at(path) and not self.ledger.was_disturbed(path):
            raise UnreadableError(f"{path} read as {seen}, of {', '.join(map(str, self.ledger.at(path)))}")
        return seen

    def _save(self, path: str, flags: int, text: str, *, fsync: bool, append: bool = False) -> Content | None:
        """Opens, looks if it can, writes a new content, closes."""
        with self._opened(path, flags) as handle:
            blind = bool(flags & os.O_TRUNC) or not flags & os.O_RDWR
            try:
                seen = BLIND if blind else self._seen(handle, path)
            except UnreadableError as error:
                self.unexpected.append(str(error))
                os.close(handle)
                return None
            new = self._content(after=seen.data if append else b"")
            # The kernel may show the size that it knew: an append goes to the end of what is there, whatever was read.
            change = self.ledger.put(path, new, BLIND if append else seen, text)
            self.ledger.opened(change)
            try:
                whole = not append and not flags & (os.O_TRUNC | os.O_EXCL)
                self._write(handle, change, seen if append else None, whole=whole)
            except OSError as error:
                self.ledger.failed(change, error)
                if error.errno not in DEAD:
                    self.ledger.spoil(path)
                raise
            if fsync:
                self._fsync(handle, change)
        self._close(handle, change)
        return new

    def _fsync(self, handle: int, change: Change) -> None:
        """Where things go wrong it may fail, and the close that follows still keeps the bytes."""
        try:
            os.fsync(handle)
        except OSError as error:
            if self.calm or error.errno in DEAD:
                self.ledger.failed(change, error)
                raise
            self.ledger.tell(f"fsync fails ({error}): {change.text}")
        else:
            self.ledger.keep(change, durable=True)

    def _write(self, handle: int, change: Change, before: Content | None, *, whole: bool) -> None:
        whole_content = change.content.data
        data = whole_content[len(before.data) if before else 0 :]
        while len(change.written) < len(data):
            at = len(change.written)
            change.written = data[: at + os.write(handle, memoryview(data)[at:])]
        if whole:
            os.ftruncate(handle, len(whole_content))

    def _close(self, handle: int, change: Change) -> None:
        try:
            os.close(handle)
        except OSError as error:
            self.ledger.failed(change, error)
            raise
        self.ledger.keep(change)

    def _attempt(self, change: Change, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            if error.errno in _REFUSALS:
                self.ledger.refused(change, error)
            else:
                self.ledger.failed(change, error)
            raise
        self.ledger.keep(change)

    def _make(self, path: str, *, fsync: bool = False) -> Content | None:
        return self._save(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "create", fsync=fsync) if path else None

    def _new_file(self) -> None:
        self._make(self._any_free(), fsync=self._random.random() < 0.3)

    def _save_again(self, flags: int, text: str, synced: float) -> None:
        """What is there gets another content; `synced`: the share of fsyncs."""
        if path := self._any_file():
            fsync = self._random.random() < synced
            self._save(path, flags, text, fsync=fsync, append=bool(flags & os.O_APPEND))

    def _save_in_place(self) -> None:
        self._save_again(os.O_RDWR, "save in place", 0.7)

    def _truncate_and_write(self) -> None:
        self._save_again(os.O_WRONLY | os.O_TRUNC | os.O_CREAT, "truncate and write", 0.3)

    def _append(self) -> None:
        self._save_again(os.O_RDWR | os.O_APPEND, "append", 0.4)

    def _run_program(self) -> None:
        """A program of the table adds a line, in a process of its own."""
        path = self._any_file()
        if not path:
            return
        program, size = self._random.choice(_PROGRAMS), self._random.randrange(20, 3000)
        before = self._random.choice([content.data for content in self.ledger.at(path)])
        new = self.contents.make(self.name, size, after=before)
        line = new.data[len(before) : -1].decode()
        change = self.ledger.put(path, new, BLIND, f"{program.name}:")
        words = program.command(self.root / path, line)
        done = self._forks.output(words, dict(os.environ), Path("/"), execute=True)
        if line in done.stdout:
            self.ledger.keep(change, durable=program.syncs)
            return
        try:
            os.stat(self.root)
        except OSError as error:
            self.ledger.failed(change, error)
            raise
        self.ledger.failed(change, failed := OSError(errno.EIO, done.stderr[-80:]))
        self.ledger.spoil(path)
        raise failed

    def _rename(self, old: str, new: str) -> None:
        change = self.ledger.rename(old, new)
        self._attempt(change, lambda: os.rename(self.root / old, self.root / new))

    def _editor_save(self) -> None:
        """Write beside, fsync, rename over; the name beside is a real one or a desktop's scratch name."""
        path = self._any_file() or self._any_free()
        if not path:
            return
        pattern = self._random.choice([".goutputstream-{}", "{}.tmp", "sed{}"])
        draft = names.join(names.parent(path), pattern.format(names.basename(path)))
        if self._is(draft, ABSENT):
            # A part of one may be there that the last mount did not live to close.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            if self._save(draft, flags, "write draft", fsync=self._random.random() < 0.8) is not None:
                self._rename(draft, path)

    def _vim_save(self) -> None:
        """Rename to a backup, write anew, fsync, chmod, close, unlink the backup."""
        path = self._any_file()
        if not path or not self.ledger.usable(path + "~"):
            return
        self._rename(path, path + "~")
        if self._save(path, os.O_WRONLY | os.O_CREAT, "write anew", fsync=True) is None:
            return
        self._chmod(path)
        if self._random.random() < 0.8:
            self._unlink(path + "~")

    def _rename_file(self) -> None:
        path = self._any_file()
        target = self._random.choice([self._any_file(), self._any_free()])
        if path and target and path != target:
            self._rename(path, target)

    def _rename_directory(self) -> None:
        """With a file in it that was closed just now."""
        old, new = self._directories(DIRECTORY), self._directories(ABSENT)
        if not old or not new:
            return
        source, target = self._random.choice(old), self._random.choice(new)
        inside = names.join(source, f"unsent{self._random.randrange(3)}.txt")
        if self._is(inside, ABSENT):
            self._make(inside)
        self._rename(source, target)

    def _unlink(self, path: str) -> None:
        change = self.ledger.unlink(path)
        self._attempt(change, lambda: os.unlink(self.root / path))

    def _unlink_file(self) -> None:
        if path := self._any_file():
            self._unlink(path)

    def _unlink_unsent(self) -> None:
        path = self._any_free()
        if path and self._make(path):
            self._unlink(path)

    def _unlink_open(self) -> None:
        """It stays readable and writable, and never comes back."""
        path = self._any_file()
        if not path:
            return
        with self._opened(path, os.O_RDWR) as handle:
            self._unlink(path)
            os.pwrite(handle, b"never to be seen", 0)
        os.close(handle)

    def _make_directory(self) -> None:
        if free := self._directories(ABSENT):
            path = self._random.choice(free)
            self._attempt(self.ledger.mkdir(path), lambda: os.mkdir(self.root / path, 0o755))

    def _remove_directory(self) -> None:
        with self.ledger.lock:
            options = {path: set(contents) for path, contents in self.ledger.options.items()}
        empty = [
            path
            for path in self._directories(DIRECTORY)
            if all(contents == {ABSENT} for other, contents in options.items() if names.is_below(other, path))
            # What the last mount did not live to close may be in there, and is not in the ledger.
            and not any(
                is_local(name) or names.parse_second_version(name) for name in os.listdir(self.root / path)
            )
        ]
        if empty:
            path = self._random.choice(empty)
            change = self.ledger.unlink(path, "rmdir")
            self._attempt(change, lambda: os.rmdir(self.root / path))

    def _chmod(self, path: str) -> None:
        mode = self._random.choice([0o644, 0o755, 0o600, 0o700])
        self.ledger.modes.pop(path, None)
        os.chmod(self.root / path, mode)
        if len(self.ledger.at(path)) == 1:
            self.ledger.modes[path] = mode
            self.ledger.tell(f"kept: chmod {mode:o} {path}")

    def _chmod_dirty(self) -> None:
        path = self._any_free() or self._any_file()
        if path and self._save(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, "write", fsync=False):
            self._chmod(path)

    def _many_saves(self) -> None:
        """One handle, several fsyncs: a program that keeps its file open."""
        path = self._any_file()
        if not path:
            return
        with self._opened(path, os.O_WRONLY | os.O_TRUNC) as handle:
            for _ in range(self._random.randint(2, 4)):
                new = self._content()
                change = self.ledger.put(path, new, BLIND, "save again")
                try:
                    os.lseek(handle, 0, os.SEEK_SET)
                    self._write(handle, change, None, whole=True)
                    os.fsync(handle)
                except OSError as error:
                    self.ledger.failed(change, error)
                    raise
                self.ledger.keep(change, durable=True)
        os.close(handle)

    def _look_around(self) -> None:
        """A listing and a look at each, as a shell or a file manager does."""
        place = self._random.choice(["", self.name])
        with os.scandir(self.root / place) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    stat.S_ISDIR(entry.stat().st_mode)


class UnreadableError(Exception):
    """A read showed what nobody wrote, or what cannot be there."""


#: How often each is drawn.
_OPERATIONS = {
    "new_file": 12, "save_in_place": 12, "truncate_and_write": 8, "append": 8, "editor_save": 10, "vim_save": 6,
    "rename_file": 6, "rename_directory": 5, "unlink_file": 6, "unlink_unsent": 4, "unlink_open": 3, "make_directory": 4,
    "remove_directory": 4, "chmod_dirty": 5, "many_saves": 4, "look_around": 5, "run_program": 6,
}  # fmt: skip


#: What the job does, and how often.
_ACTS = {
    named("job", name): share
    for name, share in (("writes", 8), ("replaces", 4), ("appends", 4), ("deletes", 3), ("deletes the directory", 0.3))
}  # fmt: skip


class Job:
    """The job; `run` in a thread of its own. A step and its note in the ledger are one: the server's lock is held."""

    def __init__(
        self, server: Server, ledger: Ledger, contents: Contents, paths: list[str], seed: int, pause: float
    ) -> None:
        """`paths`: what it works on, there or not. `pause`: mean seconds between two steps."""
        self._side, self._ledger, self._contents, self._paths = server.store, ledger, contents, paths
        self._random = random.Random(seed)
        self._pause = pause

    def run(self, stop: threading.Event) -> None:
        """Works until told to stop."""
        while not stop.wait(self._random.expovariate(1 / self._pause)):
            with self._side.lock:
                self._step(self._random.choice(self._paths))

    def _step(self, path: str) -> None:
        (act,) = self._random.choices(list(_ACTS), list(_ACTS.values()))
        if self._side.exists(path) and self._side.item_at(path).is_dir:
            return
        if act.writes:
            self._write(act, path)
        else:
            self._delete(act, path)

    def _write(self, act: Interference, path: str) -> None:
        before = self._side.read(path) if self._side.exists(path) else None
        if before is None and (act.needs_file or not self._side.exists(names.parent(path) or path)):
            return
        after = before if act.name == "appends" and before is not None else b""
        new = self._contents.make("job", self._random.randrange(20, 3000), after=after, by_job=True)
        act.act(Scene(path, self._side, lambda before: new.data[len(after) :]))
        destroyed = None if before is None else self._contents.known(before)
        self._ledger.job_put(path, new, destroyed, act.name)

    def _delete(self, act: Interference, path: str) -> None:
        top = path if act.name == "deletes" else names.parent(path) or path
        doomed = [item for item in self._side.items() if names.is_at_or_below(item.path, top)]
        if not doomed:
            return
        destroyed: list[Content] = [
            self._contents.known(self._side.content_of(item.id)) for item in doomed if not item.is_dir
        ]
        act.act(Scene(path, self._side))
        self._ledger.job_delete(top, destroyed)
