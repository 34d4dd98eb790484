"""The list of what the job, another mount, a program, the network, the server and the machine may do to a save, at any boundary.

A harness plays every act of the actors that it has (`of`), so that an act is added in one place. Where a harness carries an act
out in a way of its own (the protocol model's worlds are values), it has a table by the names of the list, and a test that the
table has every name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from jobfs.emulator import JobSide
from jobfs.emulator.faults import Kind
from jobfs.names import parent

from .judge import ABSENT, Effect, State, is_hidden

Actor = Literal["job", "mount", "program", "network", "server", "machine"]
#: Whether the server carries out a request that meets a fault.
Execution = Literal["never", "at once", "late"]


class Host(Protocol):
    """The machine on which the mount runs (tests/support/hosts.py)."""

    def kill(self) -> None: ...
    def cut_power(self) -> None: ...
    def lose_state(self) -> None: ...
    def fill_disk(self) -> None: ...


@dataclass
class Scene:
    """What an act can reach; a harness gives what it has.

    `job` has the methods of JobSide that its acts call. `make` returns what the job, or another mount, writes over some bytes.
    `other` is another mount of the job, `work` the mount whose boundary is reached; in that, `handles` stay open. `host` is its
    machine. `fault` adds a fault to the server, for the requests that the harness chooses.
    """

    path: str
    job: Any
    make: Callable[[bytes], bytes] = lambda before: before
    elsewhere: str = "elsewhere.txt"
    other: Any = None
    work: Any = None
    host: Any = None
    handles: list[int] = field(default_factory=list)
    fault: Callable[..., object] = lambda kind, **more: None

    @property
    def is_there(self) -> bool:
        """Return whether the job sees a file at the path."""
        return self.job.exists(self.path) and not self.job.item_at(self.path).is_dir

    def next(self) -> bytes:
        """Return what the job writes now."""
        return self.make(self.job.read(self.path) if self.is_there else b"")


@dataclass(frozen=True)
class Interference:
    """One act. `needs_file`: it does nothing where the job sees no file at the path. `is_slow`: something waits for a timeout.

    `writes`: it makes new bytes under the path.
    """

    name: str
    actor: Actor
    act: Callable[[Scene], object]
    needs_file: bool = False
    is_slow: bool = False
    writes: bool = False

    def play(self, scene: Scene) -> list[Effect]:
        """Act, and return what that changed on the server."""
        with scene.job.lock if self.actor == "job" else nullcontext():
            before = _shown(scene.job)
            if scene.is_there or not self.needs_file:
                self.act(scene)
            after = _shown(scene.job)
        nothing = ("", ABSENT)
        pairs = {path: (before.get(path, nothing), after.get(path, nothing)) for path in {**before, **after}}
        return [
            Effect(path, old[1], new[1], old[0] == new[0], len(scene.job.items_at(path)) > 1)
            for path, (old, new) in pairs.items()
            if old != new
        ]

    def __str__(self) -> str:
        return self.name


def _shown(job: JobSide) -> dict[str, tuple[str, State]]:
    """Return by path the id and the state of each item that is shown."""
    shown: dict[str, tuple[str, State]] = {}
    with job.lock:
        for path in {item.path for item in job.items() if not is_hidden(item.path)}:
            item = job.item_at(path)
            shown[path] = (item.id, None if item.is_dir else job.content_of(item.id))
    return shown


# The job


def _write(scene: Scene) -> None:
    scene.job.write(scene.path, scene.next())


def _create(scene: Scene) -> None:
    if not scene.job.exists(scene.path):
        scene.job.seed({scene.path: scene.next()})


def _rename_over(scene: Scene) -> None:
    new, draft = scene.next(), f"{scene.path}.new"
    scene.job.seed({draft: new})
    scene.job.move(draft, scene.path)


def _move_away(scene: Scene, then: str = "") -> None:
    new = scene.next() if then == "make another" else b""
    scene.job.move(scene.path, scene.elsewhere)
    if then == "make another":
        scene.job.seed({scene.path: new})
    elif then == "move back":
        scene.job.move(scene.elsewhere, scene.path)


def _delete_directory(scene: Scene, *, make: bool = False) -> None:
    new, top = scene.next(), parent(scene.path) or scene.path
    if scene.job.exists(top):
        scene.job.delete(top)
    if make:
        scene.job.seed({scene.path: new})


# A program on the same mount, and another mount of the job


def _hold(scene: Scene, flags: int) -> None:
    scene.handles.append(scene.work.open(scene.path, flags))


def _save(scene: Scene, *, by_rename: bool = False) -> None:
    draft = f"{scene.path}.new" if by_rename else scene.path
    scene.other.write(draft, scene.next(), fsync=True)
    if by_rename:
        _rename(scene, draft, scene.path)


def _rename(scene: Scene, old: str, new: str) -> None:
    scene.other.vfs.rename(old, new)
    scene.other.drain()


# The network and the server


@dataclass(frozen=True)
class Fault(Interference):
    """A fault of the local server (emulator/faults.py), for the requests that the harness chooses.

    `execution`: whether the server carries such a request out. `answer`: what the mount receives. `like`: the act after which a
    mount takes the same steps. Of a refusal: whether it `lasts`, and the errors that fsync may fail with.
    """

    kind: Kind = "error"
    execution: Execution = "never"
    answer: Literal["none", "error", "false", "true"] = "error"
    like: str = ""
    lasts: bool = False
    errnos: frozenset[int] = frozenset({errno.EIO})


def _fault(
    name: str,
    kind: Kind,
    execution: Execution,
    answer: Literal["none", "error", "false", "true"],
    like: str = "",
    *,
    is_slow: bool = False,
    **options: Any,
) -> Fault:
    return Fault(
        name, "network", lambda scene: scene.fault(kind, **options), is_slow=is_slow, kind=kind,
        execution=execution, answer=answer, like=like,
    )  # fmt: skip


def _refusal(name: str, status: int, reason: str, *errnos: int, lasts: bool) -> Fault:
    return Fault(
        name, "server", lambda scene: scene.fault("error", status=status, reason=reason), lasts=lasts,
        errnos=frozenset({*errnos, errno.EIO}),
    )  # fmt: skip


_ACTS = [
    Interference("writes", "job", _write, writes=True),
    Interference("appends", "job", lambda s: s.job.append(s.path, s.make(b"")), writes=True),
    Interference("touches", "job", lambda s: s.job.write(s.path, s.job.read(s.path)), needs_file=True),
    Interference("protects", "job", lambda s: s.job.set_permission(s.path, "readOnly"), needs_file=True),
    Interference("replaces", "job", lambda s: s.job.replace(s.path, s.next()), needs_file=True, writes=True),
    Interference("renames over", "job", _rename_over, writes=True),
    Interference("deletes", "job", lambda s: s.job.delete(s.path), needs_file=True),
    Interference("creates again", "job", _create, writes=True),
    Interference("makes a second item", "job", lambda s: s.job.seed({s.path: s.next()}), needs_file=True, writes=True),
    Interference("moves away", "job", _move_away, needs_file=True),
    Interference("moves away and makes another", "job", partial(_move_away, then="make another"), needs_file=True, writes=True),
    Interference("moves away and back", "job", partial(_move_away, then="move back"), needs_file=True),
    Interference("deletes the directory", "job", _delete_directory),
    Interference("deletes the directory and makes another", "job", partial(_delete_directory, make=True), writes=True),
    Interference("saves", "mount", _save, writes=True),
    Interference("saves by a rename", "mount", partial(_save, by_rename=True), writes=True),
    Interference("unlinks", "mount", lambda s: s.other.vfs.unlink(s.path), needs_file=True),
    Interference("moves away", "mount", lambda s: _rename(s, s.path, s.elsewhere), needs_file=True),
    Interference("reads", "program", lambda s: s.work.read(s.path)),
    Interference("lists", "program", lambda s: s.work.names(parent(s.path))),
    Interference("opens to read", "program", partial(_hold, flags=os.O_RDONLY)),
    Interference("opens to write", "program", partial(_hold, flags=os.O_RDWR)),
]  # fmt: skip

FAULTS = [
    _fault("drops a request", "drop", "never", "none"),
    _fault("loses an answer", "drop_after", "at once", "none"),
    _fault("loses two answers", "drop_after", "at once", "none", times=2),
    _fault("delays a request", "late", "late", "none"),
    _fault("cuts an answer", "cut", "at once", "none", "loses an answer"),
    _fault("is silent", "hang", "never", "none", "drops a request", is_slow=True),
    _fault("is silent afterwards", "hang_after", "at once", "none", "loses an answer", is_slow=True),
    _fault("is silent from the start", "silent", "never", "none", "drops a request", is_slow=True),
    _fault("fails", "error", "never", "error", "drops a request"),
    _fault("fails afterwards", "error_after", "at once", "error"),
    _fault("is unavailable", "unavailable", "never", "error", "fails"),
    _fault("throttles", "throttled", "never", "error", "fails", retry_after="0"),
    _fault("answers as a proxy", "gateway", "never", "error", "fails"),
    _fault("answers another path", "odd_item", "at once", "false", field="path", value='"elsewhere"'),
    _fault("answers another size", "odd_item", "at once", "false", "answers another path", field="size", value="3"),
    _fault(
        "answers another type", "odd_item", "at once", "false", "answers another path", field="type", value='"directory"'
    ),
    _fault("does nothing and answers", "undone", "never", "false"),
    _fault("is slow", "slow", "at once", "true", "delays a request"),
]  # fmt: skip
#: The kinds after which nobody knows whether the server has carried the request out.
UNANSWERED = frozenset(fault.kind for fault in FAULTS if fault.answer == "none")

REFUSALS = [
    _refusal("refuses the path", 400, "Invalid path", errno.EINVAL, lasts=False),
    _refusal("refuses the key", 401, "Failed to authenticate", errno.EACCES, lasts=True),
    _refusal("refuses everything", 403, "Forbidden", errno.EACCES, lasts=True),
    _refusal("refuses the item", 404, "Not found", errno.ETIMEDOUT, errno.ENOENT, lasts=True),
    _refusal("refuses the size", 413, "Too large", errno.EFBIG, lasts=True),
    _refusal("refuses the request", 422, "Not valid", errno.EINVAL, lasts=False),
]

_MACHINE = [
    Interference("kills the mount", "machine", lambda scene: scene.host.kill()),
    Interference("cuts the power", "machine", lambda scene: scene.host.cut_power()),
    Interference("loses the state directory", "machine", lambda scene: scene.host.lose_state()),
    Interference("fills the disk", "machine", lambda scene: scene.host.fill_disk()),
]

_EVERY: list[Interference] = [*_ACTS, *FAULTS, *REFUSALS, *_MACHINE]


def named(actor: Actor, name: str) -> Interference:
    """Return the one act of this actor and name."""
    (act,) = (act for act in of(actor) if act.name == name)
    return act


def of(*actors: Actor) -> list[Interference]:
    """Return every act of these actors."""
    return [act for act in _EVERY if act.actor in actors]
