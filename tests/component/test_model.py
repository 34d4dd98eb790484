"""A model of the mount: dictionaries beside a real Vfs, a job that changes the same files, and a server that fails.

The model is exact, but for what stands under "what is allowed to differ". No two writes have the same bytes. No call tells its
process: a save replaces what was shown. It was found to be right where it is silent: what is not modelled (a directory that the
job deletes while a file in it is open, writing to a file whose directory is gone) is left out.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tests.support.boundaries import Boundaries, Mortal
from tests.support.environment import read_test_variable
from tests.support.interferences import Interference, Scene, of
from tests.support.judge import Judge, second_version
from tests.support.serverside import found_on
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.errors import JobfsError
from jobfs.names import basename, is_at_or_below, is_below, parent, path_after_rename
from jobfs.vfs import Caller, KernelFile

#: What is at a path: the bytes of a file, a directory, or nothing.
Value = bytes | Literal["directory"] | None
DIRECTORY: Literal["directory"] = "directory"
OTHER: Any = "what comes after it is another item"
ANYBODY = Caller(os.getuid(), os.getgid(), 0)
FILES, DIRECTORIES, SCRATCH = ("a", "b", "d/a", "e/a"), ("d", "e"), "a~"

NAMES, ANY = st.sampled_from(FILES), st.sampled_from((*FILES, SCRATCH))
NUMBERS, LENGTHS = st.integers(0, 23), st.integers(1, 3)
WRITE = st.tuples(
    st.just("write"), NUMBERS, st.sampled_from((0, 1, 5, 12)), LENGTHS,
    st.sampled_from(("write", "append", "end", "cut", "empty")),
)  # fmt: skip
OPEN = st.tuples(st.just("open"), NUMBERS, st.sampled_from((os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND)))
RENAME = st.tuples(st.just("rename"), NUMBERS, ANY)
#: All but what the model has no word for: two items at one path, and permissions.
JOB_ACTS = [act for act in of("job") if act.name not in ("makes a second item", "protects")]
JOB = st.tuples(st.just("job"), NUMBERS, LENGTHS, st.sampled_from(JOB_ACTS), NAMES)
FATES = (*("pass_time", "lose_an_answer", "settle") * 2, "go_down", "remount", "kill")
#: What may come next, with its arguments; what finds most comes most often.
ACTS = st.one_of(
    OPEN, OPEN, WRITE, WRITE, WRITE, RENAME, RENAME, JOB, JOB, JOB, JOB, JOB,
    *(st.tuples(st.just(call), NUMBERS) for call in ("read", "close", "fsync", "unlink", "stat")),
    st.tuples(st.just("put"), ANY, LENGTHS),
    st.tuples(st.just("look"), NUMBERS, st.sampled_from((0, 0, 0o600, 0o755))),
    st.tuples(
        st.sampled_from(("mkdir", "rmdir", "rename_directory", "list")),
        st.sampled_from(DIRECTORIES),
    ),
    st.tuples(st.sampled_from(FATES)),
)  # fmt: skip
LOST: tuple[Any, ...] = ("drop_after", "drop", "error_after", "error")
#: What asks the server within the call. In an outage it is not tried: it fails, and nothing has changed.
ONLINE = (
    "fsync", "unlink", "rename", "mkdir", "rmdir", "rename_directory", "look", "pass_time", "lose_an_answer",
)  # fmt: skip
#: What begins with a number of a handle that is open, or of a name.
OF_A_HANDLE = ("write", "read", "close", "fsync")
OF_A_NAME = ("open", "look", "stat", "unlink", "rename", "job")


@dataclass(eq=False)
class Local:
    """Bytes that only this machine has: as handles see them, as they were closed last (None: never), and what they replace."""

    data: bytes
    closed: bytes | None
    base: Value


@dataclass(eq=False)
class Node:
    """What the handles of one file share: its name, None once it has lost that, and its local bytes."""

    path: str | None
    local: Local | None


@dataclass(eq=False)
class Handle:
    """An open file; `value` is the version that it shows where nothing was written; `end`, where its program found the end."""

    fh: int
    node: Node
    value: bytes
    writable: bool
    end: int


def tried(call: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """The errno of an operation, 0 if it did not fail, and its result."""
    try:
        return 0, call(*arguments)
    except JobfsError as error:
        return error.errno or -1, None


class Machine(RuleBasedStateMachine):
    """The user's calls, the job's changes, and what befalls the two."""

    server: ClassVar[Server]
    homes: ClassVar[Iterator[Path]]

    def __init__(self) -> None:
        super().__init__()
        #: What the server has once all is settled, but for what is only here and for what is `leaving`: got a scratch name here.
        self.there: dict[str, Value] = {}
        self.here: dict[str, Local] = {}
        self.leaving: dict[str, Value] = {}
        #: What the job's changes have replaced, as long as this mount has not been seen to know.
        self.older: dict[str, list[Value]] = {}
        #: What must be kept as a second version, with its path; all that ever was.
        self.kept: list[tuple[str, bytes]] = []
        self.made: set[bytes] = set()
        #: The sizes that the kernel has, by path.
        self.sizes: dict[str, int] = {}
        self.unanswered = self.down = False
        self.handles: list[Handle] = []
        self.nodes: dict[str, Node] = {}
        self.count = itertools.count(1)
        self.server.reset()
        self.home = next(self.homes)
        self.mount()

    def mount(self) -> None:
        options: dict[str, Any] = {"ttl": 60.0, "write_back_delay": 60.0, "timeout": 10.0}
        self.work = Mortal(self.server, self.home, Boundaries(), **options)
        self.work.start()
        self.vfs = self.work.vfs
        self.sizes.clear()

    def teardown(self) -> None:
        try:
            if self.work.running:
                self.settle()
        finally:
            self.server.faults.clear()
            self.work.end()

    @initialize(lengths=st.tuples(LENGTHS, LENGTHS, LENGTHS))
    def begin(self, lengths: tuple[int, int, int]) -> None:
        tree = dict(zip(("a", "b", "d/a"), map(self.text, lengths), strict=True))
        self.server.store.seed(tree, age=60)
        self.there = {"d": DIRECTORY, **tree}
        self.opened("a", os.O_RDWR)
        self.opened("b", os.O_RDWR)

    @rule(act=ACTS)
    def go_on(self, act: tuple[Any, ...]) -> None:
        call, *arguments = act
        if (self.down and call in ONLINE) or (call in OF_A_HANDLE and not self.handles):
            return
        if call in OF_A_HANDLE:
            arguments[0] = self.handles[arguments[0] % len(self.handles)]
        elif call in OF_A_NAME:
            arguments[0] = self.name(arguments[0])
        getattr(self, call)(*arguments)

    # -- what is allowed to differ

    def may_show(self, path: str, seen: Value) -> bool:
        """What is there; until it was seen or looked at again, what was there before the job's changes."""
        return seen == self.now(path) or (path not in self.here and seen in self.older.get(path, []))

    def may_fail(self, number: int) -> bool:
        """In an outage, what needs the server."""
        return self.down and number in (errno.EIO, errno.ETIMEDOUT, errno.ENETUNREACH)

    # -- the state

    def now(self, path: str) -> Value:
        """What is at a path for who has seen everything."""
        if path in self.here:
            return self.here[path].data
        return None if path in self.leaving else self.there.get(path)

    def has_parent(self, path: str) -> bool:
        return not parent(path) or self.now(parent(path)) is not None

    def children(self, directory: str) -> set[str]:
        paths = [path for path in {*self.there, *self.here} if self.now(path) is not None]
        return {basename(path) for path in paths if parent(path) == directory}

    def text(self, length: int) -> bytes:
        made = (b"<%d>" % next(self.count)) * length
        self.made.add(made)
        return made

    def name(self, number: int) -> str:
        """The name of a file that is open, or of any that is there."""
        there = sorted(path for path in {*self.there, *self.here} if isinstance(self.now(path), bytes))
        opened = [handle.node.path for handle in self.handles if handle.node.path]
        some = (opened or there, there or opened)[number % 2] or (*FILES, SCRATCH)
        return some[number // 2 % len(some)]

    def at(self, path: str) -> list[Handle]:
        return [handle for handle in self.handles if handle.node.path == path]

    def saw(self, path: str, seen: Value) -> Value:
        """A look has shown this. Once it has shown the present, the past is not shown again."""
        assert self.may_show(path, seen), f"{path}: {seen!r}, not {self.now(path)!r}"
        if seen == self.now(path):
            self.know(path)
        return seen

    def know(self, *paths: str) -> None:
        """The mount has seen the job's changes. What is open is not what the name stands for, if that is another item."""
        for path in paths or [*self.older]:
            if OTHER in self.older.pop(path, []) and path not in self.here:
                self.nodes.pop(path, None)

    def look_again(self, *paths: str) -> None:
        """The next look at one of these is a new one, if the job has changed something there."""
        if not self.down and any(
            is_at_or_below(path, at) or is_at_or_below(at, path) for at in self.older for path in paths
        ):
            self.pass_time()

    def lose(self, path: str) -> None:
        for handle in self.at(path):
            handle.node.path = None
        self.nodes.pop(path, None)

    def send(self, path: str) -> None:
        """The server gets what is only here; what the job has made there since is kept beside it."""
        local, there = self.here.pop(path), self.there.get(path)
        if isinstance(there, bytes) and there not in (local.base, local.data, self.leaving.get(path)):
            self.kept.append((path, there))
        self.there |= {path: local.data, **({parent(path): DIRECTORY} if parent(path) else {})}
        for known in (path, parent(path)):
            self.older.pop(known, None)
        self.leaving.pop(path, None)
        for handle in self.handles:
            if handle.node.local is local:
                handle.value, handle.end = local.data, len(local.data)
        for handle in self.at(path):
            handle.node.local = None

    # -- the user: contents

    def opened(self, path: str, flags: int) -> Handle | None:
        """Opens what is there and reads it; None if that fails, as it must."""
        failed, opened = self.opened_by_size(path, flags)
        if not failed:
            failed, value = tried(self.vfs.read, opened.fh, 1 << 20, 0)
        if failed:
            assert self.may_fail(failed) or (failed == errno.ENOENT and self.saw(path, None) is None)
            return None
        self.saw(path, value)
        node = self.nodes.setdefault(path, Node(path, self.here.get(path)))
        assert len(value) == self.sizes[path]
        self.handles.append(Handle(opened.fh, node, value, flags != os.O_RDONLY, self.sizes[path]))
        return self.handles[-1]

    def opened_by_size(self, path: str, flags: int) -> tuple[int, Any]:
        """vfs/semantics.md 3.17: as the kernel opens a file, by the size that it has; after ESTALE, by the one looked up."""
        if path not in self.sizes and (failed := self.looked_up(path)):
            return failed, None
        failed, opened = tried(self.vfs.open, path, flags, 0, KernelFile(self.sizes[path]))
        if failed == errno.ESTALE and not (failed := self.looked_up(path)):
            failed, opened = tried(self.vfs.open, path, flags, 0, KernelFile(self.sizes[path], is_retry=True))
        return failed, opened

    def looked_up(self, path: str) -> int:
        """The kernel looks a name up; the errno."""
        failed, attr = tried(self.vfs.getattr, path)
        if not failed:
            self.sizes[path] = attr.size
        return failed

    def created(self, path: str) -> Handle | None:
        self.look_again(parent(path))
        failed, opened = tried(self.vfs.create, path, 0o644, os.O_RDWR | os.O_CREAT | os.O_EXCL, ANYBODY)
        if failed:
            lost = failed == errno.ENOENT and parent(path) and self.may_show(parent(path), None)
            taken = failed == errno.EEXIST and (self.now(path) is not None or path in self.older)
            assert lost or taken or self.may_fail(failed), errno.errorcode.get(failed)
            return None
        self.saw(path, None)
        local = self.here[path] = Local(b"", None, self.leaving.get(path))
        self.nodes[path] = Node(path, local)
        self.sizes.pop(path, None)
        self.handles.append(Handle(opened.fh, self.nodes[path], b"", True, 0))
        return self.handles[-1]

    def open(self, path: str, flags: int) -> None:
        if len(self.handles) < 4:
            _ = self.created(path) if self.now(path) is None else self.opened(path, flags)

    def write(self, handle: Handle, offset: int, length: int, kind: str) -> None:
        node, path = handle.node, handle.node.path
        if not handle.writable or (self.down and node.local is None):
            return
        if node.local is None and path is not None:
            if path in self.here or self.nodes.get(path, node) is not node or not self.has_parent(path):
                return  # the job has put another file there, and that is open or written to
            self.here[path] = Local(handle.value, None, handle.value)
            self.nodes[path] = node
        end = handle.end if node.local is None else len(node.local.data)
        local = node.local = node.local or (
            Local(handle.value, None, None) if path is None else self.here[path]
        )
        self.sizes.pop(path or "", None)
        if kind in ("cut", "empty"):
            size = min(offset, len(local.data)) if kind == "cut" else 0
            self.vfs.ftruncate(handle.fh, size)
            local.data = local.data[:size]
        if kind != "cut":
            text, size = self.text(length), len(local.data)
            place = {"write": offset, "append": size, "end": end}.get(kind, 0)
            place = size if self.vfs.get_handle(handle.fh).append else place
            assert kind != "end" or place == size, "it would write over what it does not know of"
            assert self.vfs.write(handle.fh, text, place) == len(text)
            local.data = local.data.ljust(place, b"\0")[:place] + text + local.data[place + len(text) :]
        self.made.add(local.data)

    def read(self, handle: Handle) -> None:
        """vfs/semantics.md 3.13: one version, that which was opened; a log that has grown may be read on (3.14)."""
        local, (failed, rest) = handle.node.local, tried(self.vfs.read, handle.fh, 1 << 20, 2)
        if failed:
            assert self.may_fail(failed)  # what it has grown by is not to be had
            return
        data = self.vfs.read(handle.fh, 2, 0) + rest
        log = not handle.writable and local is None and data.startswith(handle.value)
        assert data == (local.data if local else handle.value) or (log and data in self.made)
        if not local:
            handle.value, handle.end = data, len(data)

    def close(self, handle: Handle) -> None:
        self.handles.remove(handle)
        self.vfs.flush(handle.fh)
        self.vfs.release(handle.fh)
        node = handle.node
        if handle.writable and node.local is not None:
            node.local.closed = node.local.data
        if node.path and self.nodes.get(node.path) is node and not any(h.node is node for h in self.handles):
            del self.nodes[node.path]

    def fsync(self, handle: Handle) -> None:
        """vfs/semantics.md 4.7, 4.16."""
        if (local := handle.node.local) is None or (path := handle.node.path) is None:
            return
        self.vfs.fsync(handle.fh)
        local.closed = local.data
        if path != SCRATCH:
            assert self.server.store.read(path) == local.data
            self.send(path)

    def put(self, path: str, length: int) -> None:
        """A program writes a whole file anew."""
        missing = tried(self.vfs.getattr, path)[0] == errno.ENOENT
        if self.created(path) if missing else self.opened(path, os.O_RDWR):
            self.write(self.handles[-1], 0, length, "empty")
            self.close(self.handles[-1])

    # -- the user: names

    def shown(self, path: str) -> Value:
        data: Value = None
        try:
            data = self.work.read(path)
        except JobfsError as error:
            if error.errno != errno.ENOENT:
                raise
        return self.saw(path, data)

    def look(self, path: str, mode: int) -> None:
        """Reads a file, or changes its mode."""
        if not mode:
            self.shown(path)
            return
        self.look_again(path)
        assert tried(self.vfs.chmod, path, mode)[0] == (errno.ENOENT if self.now(path) is None else 0)
        assert self.now(path) is None or self.vfs.getattr(path).mode & 0o777 == mode

    def stat(self, path: str) -> None:
        """Shows the size of what is there, and reads nothing of it."""
        self.look_again(path)
        failed = self.looked_up(path)
        assert failed in (0, errno.ENOENT) or self.may_fail(failed)

    def unlink(self, path: str) -> None:
        """vfs/semantics.md 4.32, 4.33: what stood there a second ago."""
        self.pass_time(100.0 if parent(path) in self.older else 2.0)
        self.know(path)
        gone = self.now(path) is None
        assert tried(self.vfs.unlink, path)[0] == (errno.ENOENT if gone else 0)
        if gone:
            return
        self.lose(path)
        local = self.here.pop(path, None)
        for known in (self.sizes, self.leaving):
            known.pop(path, None)
        if local is None or (local.base is not None and self.there.get(path) == local.base):
            self.there.pop(path, None)
        elif path in self.there:
            self.older[path] = [None]  # made by the job meanwhile: it stays

    def rename(self, old: str, new: str) -> None:
        """vfs/semantics.md 4.27, 4.34, 4.43; 4.3: what was not closed comes back under its name if it has replaced a file."""
        self.look_again(old, parent(new))
        if old == new or (self.leaving and SCRATCH in (old, new)):
            return
        there, possible = self.now(old), self.now(old) is not None and self.has_parent(new)
        replaced = self.shown(new) if possible and new != SCRATCH else None
        assert tried(self.vfs.rename, old, new)[0] == (0 if possible else errno.ENOENT)
        if not possible:
            return
        self.sizes.pop(old, None), self.sizes.pop(new, None)
        over, local, node = self.here.pop(new, None), self.here.pop(old, None), self.nodes.get(old)
        base = self.leaving.get(new, over.base if over is not None else replaced)
        if new == SCRATCH:
            before = there if local is None else local.base
            if before is not None:
                self.leaving[old] = before
                self.older.pop(old, None)
            elif old in self.there:
                self.older[old] = [None]
            assert isinstance(there, bytes)
            local = Local(there, there, None)
        elif local is not None and (local.base is None or old == SCRATCH):
            local.base = base
            local.closed = local.data if over is not None or base is not None else local.closed
            if old in self.there:
                self.older[old] = [None]
        else:
            if local is not None:
                self.here[old], local = local, None
                self.send(old)
            data = self.there.pop(old)
            assert isinstance(data, bytes)
            self.older.pop(old, None)
            self.lose(new)
            self.here[new] = Local(data, None, base)
            self.send(new)
        self.lose(new)
        if local is not None:
            self.here[new] = local
        if node is not None:
            self.nodes[new] = self.nodes.pop(old)
            node.path, node.local = new, local

    def unsettled(self) -> bool:
        """A directory may have second versions in it, hidden or kept."""
        return bool(self.leaving or self.kept or self.unanswered)

    def settle_names(self, *paths: str) -> None:
        if self.unsettled():
            self.settle()
        self.look_again(*paths)

    def mkdir(self, path: str) -> None:
        self.look_again(path)
        there = self.now(path) is not None
        assert tried(self.vfs.mkdir, path, 0o755, ANYBODY)[0] == (errno.EEXIST if there else 0)
        self.there[path] = DIRECTORY

    def rmdir(self, path: str) -> None:
        """vfs/semantics.md 4.29."""
        self.settle_names(path)
        full, there = self.children(path), self.now(path) is not None
        assert tried(self.vfs.rmdir, path)[0] == (errno.ENOTEMPTY if full else 0 if there else errno.ENOENT)
        if there and not full:
            del self.there[path]

    def rename_directory(self, old: str) -> None:
        """vfs/semantics.md 4.28."""
        new = "e" if old == "d" else "d"
        self.settle_names(old, new)
        full, there = self.children(new), self.now(old) is not None
        assert tried(self.vfs.rename, old, new)[0] == (
            errno.ENOENT if not there else errno.ENOTEMPTY if full else 0
        )
        if there and not full:
            self.sizes.clear()
            trees: tuple[dict[str, Any], ...] = (self.there, self.here, self.nodes)
            for tree in trees:
                for path in [path for path in tree if is_at_or_below(path, old)]:
                    tree[path_after_rename(path, old, new)] = tree.pop(path)
            for node in {handle.node for handle in self.handles}:
                node.path = (
                    path_after_rename(node.path, old, new)
                    if node.path and is_below(node.path, old)
                    else node.path
                )

    def list(self, directory: str) -> None:
        """A listing agrees with look-ups, and with what is there."""
        self.look_again(*([directory] if directory else []))
        failed, entries = tried(self.vfs.listdir, directory)
        if failed:
            assert self.may_fail(failed) or (failed == errno.ENOENT and self.may_show(directory, None))
            return
        listed = {name: attr for name, attr in entries if not second_version(name)}
        doubtful = {basename(path) for path in self.older if parent(path) == directory}
        assert listed.keys() - doubtful == self.children(directory) - doubtful
        for name in listed.keys() - doubtful if not self.older and not self.down else ():
            assert self.vfs.getattr(f"{directory}/{name}".strip("/")) == listed[name]

    # -- the job

    def job_changed(self, path: str, value: Value) -> None:
        self.older.setdefault(path, []).append(self.there.pop(path, None))
        if value is None:
            self.older[path].append(OTHER)
        else:
            self.there[path] = value

    def job_may_write(self, path: str) -> bool:
        above = parent(path)
        return path != SCRATCH and path not in self.leaving and (not above or above in self.there)

    def another(self, path: str) -> None:
        """What is open there is not what the name stands for any more, unless it is written to."""
        self.older[path].append(OTHER)
        if path not in self.here and self.at(path):
            self.nodes.pop(path, None)
            self.look_again(path)

    def job(self, path: str, length: int, act: Interference, elsewhere: str) -> None:
        if not self.job_may(path, act, elsewhere):
            return
        text = self.text(length)
        for effect in act.play(Scene(path, self.server.store, lambda before: text, elsewhere)):
            data = effect.after if isinstance(effect.after, bytes) else None
            after: Value = DIRECTORY if effect.after is None else data
            self.made |= {data} if data is not None else set()
            self.job_changed(effect.path, after)
            if None not in (effect.before, effect.after) and not effect.same:
                self.another(effect.path)

    def job_may(self, path: str, act: Interference, elsewhere: str) -> bool:
        """What is modelled: a file that the job moves, and what is in a directory that it deletes, is not in use here."""
        top = parent(path) or path
        used = {at for at in (*self.there, *self.here) if self.at(at) or at in self.here}
        if act.name.startswith("moves"):
            return path != elsewhere and path not in used and all(map(self.job_may_write, (path, elsewhere)))
        if act.name.startswith("deletes the directory"):
            return not self.unsettled() and not any(is_at_or_below(at, top) for at in used)
        return self.job_may_write(path)

    # -- what befalls them

    def pass_time(self, seconds: float = 100.0) -> None:
        """As if so much time had passed in which nobody looked."""
        self.sizes.clear()
        known = self.vfs._namespace._cache
        eventually(lambda: not known._in_flight)
        known.snapshot = known.snapshot._replace(began=known.snapshot.began - seconds)
        for path, stamp in list(known._stamps.items()):
            known._stamps[path] = stamp._replace(began=stamp.began - seconds)
        if seconds > 60.0:
            self.know()

    def lose_an_answer(self) -> None:
        """vfs/semantics.md 5.9: the next change is carried out or not, and its answer does not come."""
        self.server.faults.fail_next(LOST[next(self.count) % 4], on="change")
        self.unanswered = True

    def go_down(self) -> None:
        """The server fails; if it does so already, it is back."""
        self.down = not self.down
        self.server.faults.clear()
        self.vfs.refresh()
        if self.down:
            self.server.faults.set_rate("unavailable", 1.0)
        self.know()

    def settle(self) -> None:
        """vfs/semantics.md 4.8: the server has everything, once; nothing is hidden, nothing is unsent."""
        self.down = False
        self.server.faults.clear()
        self.vfs.refresh()
        self.work.settle()
        for path in [path for path in self.here if path != SCRATCH]:
            self.send(path)
        for local in self.here.values():
            local.closed = local.data
        self.there = {path: data for path, data in self.there.items() if self.leaving.get(path, 0) != data}
        self.leaving.clear()
        judge, found = (
            Judge({path: None if at == DIRECTORY else at for path, at in self.there.items()}),
            found_on(self.server),
        )
        for path, data in self.kept:
            judge.displace(path, data)
        # After a lost answer, anything of the past may be kept; else what is the same as a file.
        judge.excuse(self.made if self.unanswered else self.there.values())
        assert judge.violations(found) == [], found
        for path in filter(second_version, found):
            self.server.store.delete(path)
        self.kept.clear()
        self.know()
        self.unanswered = False
        self.vfs.refresh()
        for path in (*FILES, SCRATCH):
            assert self.shown(path) == self.now(path)
        for directory in ("", *DIRECTORIES):
            self.list(directory)

    def remount(self) -> None:
        self.end_mount(self.work.stop)

    def kill(self) -> None:
        """vfs/semantics.md 4.3: what was closed is there, and what was not comes back beside its name."""
        for handle in self.at(SCRATCH):
            self.close(handle)
        self.end_mount(self.work.kill)

    def end_mount(self, end: Callable[[], None]) -> None:
        if self.leaving or self.down:
            self.settle()
        for path, local in [*self.here.items()]:
            if end == self.work.stop:
                local.closed = local.data
            if local.closed != local.data and local.data:
                self.kept.append((path, local.data))
            if local.closed is None:
                del self.here[path]
            else:
                self.here[path] = Local(local.closed, local.closed, local.base)
        end()
        self.handles.clear()
        self.nodes.clear()
        self.mount()
        self.settle()  # what an earlier mount has left is sent at once


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scratch_delay", [600.0])
def test_the_mount_behaves_as_the_model(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 3.13, 3.14, 3.17, 4.3, 4.7, 4.8, 4.27, 4.28, 4.29, 4.32, 4.33, 4.34, 4.43, 5.9.

    If JOBFS_TEST_MODEL is set: so many runs, drawn anew, and a failure is made small.
    """
    Machine.server, Machine.homes = server, (tmp_path / f"home{number}" for number in itertools.count())
    runs = int(read_test_variable("MODEL") or "0")
    profile = settings(
        max_examples=runs or 16, derandomize=not runs, stateful_step_count=100,
        phases=[Phase.generate, *([Phase.shrink] if runs else [])], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(Machine, settings=profile)
