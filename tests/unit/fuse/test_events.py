"""Events by a helper: the calls that it makes, its life, and the answers that its requests get."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.waiting import eventually

from jobfs.errors import FsError
from jobfs.fuse import event_helper
from jobfs.fuse.events import EventInjector, HelperCall, InjectedReplies
from jobfs.fuse.requests import Opcode, Request, WorkerSlot
from jobfs.fuse.sizes import KernelSizes
from jobfs.nodes import Attr

ATTR = Attr(1, stat.S_IFREG | 0o644, 1, 0, 0, 5, 0, 0, 0)
#: What each call leaves of a directory with "empty/", "file" and "old" (see `found`).
MADE = [
    (HelperCall("create", "new"), "empty file new* old"), (HelperCall("mkdir", "new"), "empty file new* old"),
    (HelperCall("unlink", "file"), "empty old"), (HelperCall("rmdir", "empty"), "file old"),
    (HelperCall("rename", "old", "empty/new"), "empty* file"), (HelperCall("modify", "file"), "empty file* old"),
    (HelperCall("close", "file"), "empty file old"), (HelperCall("attributes", "file"), "empty file old"),
    (HelperCall("attributes", ""), "empty file old"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "old").touch()
    for name in ("empty", "file", "old"):
        (tmp_path / name).chmod(0o740)
        os.utime(tmp_path / name, ns=(1, 1))
    return tmp_path


def names_in(place: Path) -> str:
    """The names in a directory; a star follows one that has another time or mode than at first."""
    seen = {path.name: path.stat() for path in sorted(place.iterdir())}
    same = {name for name, at in seen.items() if (at.st_mtime_ns, stat.S_IMODE(at.st_mode)) == (1, 0o740)}
    return " ".join(name if name in same else f"{name}*" for name in seen)


@pytest.fixture
def injector(place: Path) -> Iterator[EventInjector]:
    injector = EventInjector(lambda path: ATTR)
    injector.mount = (str(place), place.stat().st_dev)
    yield injector
    injector.close()


@pytest.mark.parametrize(("call", "left"), MADE)
def test_a_helper_makes_its_calls_only_on_the_mount(place: Path, call: HelperCall, left: str) -> None:
    """fuse/events.py: on another device, which is what lies under a mount that is gone, nothing is made."""
    words, device = [call.path or ".", *filter(None, [call.new])], place.stat().st_dev
    assert event_helper.make_call(str(place), device + 1, call.name, *words) == errno.ENOENT
    assert names_in(place) == "empty file old"
    assert event_helper.make_call(str(place), device, call.name, *words) == 0
    assert names_in(place) == left
    assert event_helper.make_call(str(place), device, "unlink", "none") == errno.ENOENT
    assert event_helper.make_call(str(place / "none"), device, call.name, *words) == errno.ENOENT


def test_the_helper_answers_call_after_call(place: Path, injector: EventInjector) -> None:
    """fuse/events.py: names of any kind; one process does it all."""
    odd = "l'ine\n\"ü"
    assert [injector.inject(HelperCall("create", odd)), injector.inject(HelperCall("create", odd))] == [
        0,
        errno.EEXIST,
    ]
    assert injector.inject(HelperCall("rename", odd, "new")) == 0
    assert (place / "new").exists()
    assert len(injector.helpers) == 1


def test_a_hung_helper_is_replaced(injector: EventInjector) -> None:
    """vfs/semantics.md 7.7: requests of the one given up are recognised until it has ended."""
    assert injector.inject(HelperCall("modify", "file")) == 0
    (first,) = injector.helpers
    os.kill(first, signal.SIGSTOP)
    injector.patience = 0.1
    assert injector.inject(HelperCall("modify", "file")) == errno.ETIMEDOUT
    assert first in injector.helpers
    injector.patience = 20.0
    eventually(lambda: injector.inject(HelperCall("modify", "file")) == 0 and first not in injector.helpers)
    assert len(injector.helpers) == 1
    (second,) = injector.helpers
    os.kill(second, signal.SIGKILL)
    eventually(lambda: injector.inject(HelperCall("modify", "file")) == 0 and second not in injector.helpers)


def test_a_dead_helper_is_remembered_until_it_is_replaced(
    injector: EventInjector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fuse/events.py: libfuse knows nothing of the file that it had open; it aborts if it hears of the release."""
    injector.inject(HelperCall("modify", "file"))
    ((process, helper),) = injector.helpers.items()
    helper.kill()
    helper.wait()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: os.stat("/none"))
    assert injector.inject(HelperCall("modify", "file")) == errno.EPIPE
    assert [*injector.helpers] == [process]


@pytest.mark.parametrize("hangs", [False, True])
def test_closing_ends_the_helper_even_in_a_hung_call(injector: EventInjector, hangs: bool) -> None:
    """vfs/semantics.md 7.7: no process is left, not even a dead one; none is started any more."""
    injector.inject(HelperCall("modify", "file"))
    (process,) = injector.helpers
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(injector.inject(HelperCall("modify", "file"))))
    if hangs:
        os.kill(process, signal.SIGSTOP)
        thread.start()
        eventually(lambda: injector.expects_request(Opcode.SETATTR))
    began = time.monotonic()
    injector.close()
    assert not Path(f"/proc/{process}").exists()
    if hangs:
        thread.join()
        assert time.monotonic() - began < injector.patience
        assert codes == [errno.EPIPE]
    assert injector.inject(HelperCall("modify", "file")) == errno.EPIPE
    assert [*injector.helpers] == [process]


UNIQUE, DIRECTORY, NODE, SIZE = 77, 5, 11, 0x0102030405060708
#: The request of each call that is meant to do something, what comes before its name, and what libfuse is asked instead.
REQUESTS = {
    "create": (Opcode.MKNOD, 16, Opcode.LOOKUP), "mkdir": (Opcode.MKDIR, 8, Opcode.LOOKUP),
    "unlink": (Opcode.UNLINK, 0, None), "rmdir": (Opcode.RMDIR, 0, Opcode.RMDIR),
    "rename": (Opcode.RENAME, 8, Opcode.RENAME), "modify": (Opcode.SETATTR, 88, Opcode.GETATTR),
    "attributes": (Opcode.SETATTR, 88, Opcode.GETATTR), "close": (Opcode.OPEN, 8, None),
}  # fmt: skip


class Answered:
    """What a helper's requests get while a call is under way; `asked` has what libfuse is asked."""

    def __init__(self, call: HelperCall | None = None, error: int = 0) -> None:
        self.asked: list[tuple[Opcode, bytes]] = []
        self.sizes = KernelSizes()
        self.error, self.slot, self.teller = error, WorkerSlot(4096), EventInjector(lambda path: ATTR)
        self.teller._call = call
        self.device, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setblocking(False)
        self.answers = InjectedReplies(self.device.fileno(), self._ask, self.teller, self.sizes)

    def __enter__(self) -> Answered:
        return self

    def __exit__(self, *_: object) -> None:
        self.device.close()
        self.kernel.close()

    def _ask(self, opcode: Opcode, rest: bytes) -> bytes:
        self.asked.append((opcode, rest[32:]))
        assert rest[:16] == struct.pack("=QQ", UNIQUE, DIRECTORY)
        assert self.slot.request.is_injected, "the driver does nothing"
        body = bytearray(b"\1" * {Opcode.LOOKUP: 128, Opcode.GETATTR: 104}.get(opcode, 0))
        if opcode == Opcode.LOOKUP:
            struct.pack_into("=Q", body, 0, NODE)
        if body:
            struct.pack_into("=Q", body, 48 if opcode == Opcode.LOOKUP else 24, SIZE)
        body = bytearray() if self.error else body
        return struct.pack("=IiQ", 16 + len(body), -self.error, UNIQUE) + body

    def request(self, opcode: int, body: bytes) -> tuple[int, bytes]:
        """The errno and the data of the answer."""
        self.asked.clear()
        self.slot.request = Request(opcode, DIRECTORY, 0)
        self.answers.reply(self.slot, self._raw(opcode, body))
        return self.answered()

    def answered(self) -> tuple[int, bytes]:
        answer = self.kernel.recv(4096)
        length, error, unique = struct.unpack_from("=IiQ", answer)
        assert (length, unique) == (len(answer), UNIQUE)
        return -error, answer[16:]

    def released(self, handle: int) -> bool:
        return self.answers.reply_to_release(
            self._raw(Opcode.RELEASE, struct.pack("=QIIQ", handle, 0, 0, 0))[:48]
        )

    def _raw(self, opcode: int, body: bytes) -> bytes:
        return struct.pack("=IIQQIIII", 40 + len(body), opcode, UNIQUE, DIRECTORY, 0, 0, 1, 0) + body


@pytest.mark.parametrize("name", [*REQUESTS, None])
def test_libfuse_gets_only_lookups_and_forgets_from_a_helper(name: str | None) -> None:
    """fuse/events.py: a request that does not belong to the call under way, as one that comes late, is refused."""
    with Answered(HelperCall(name, "x") if name else None) as answered:
        mine = REQUESTS[name][0] if name else None
        for opcode in {*Opcode, 16, 21, 22, 36, 45} - {Opcode.LOOKUP, Opcode.GETATTR, Opcode.FLUSH}:
            error, _ = answered.request(opcode, bytes(96) + b"name\0")
            assert error == (0 if opcode == mine else errno.EIO), opcode
            asked = {asked for asked, _ in answered.asked}
            assert asked <= {REQUESTS[name][2] if name and opcode == mine else None}, opcode
        for opcode in (Opcode.LOOKUP, Opcode.GETATTR):
            assert answered.request(opcode, b"name\0")[0] == 0
            assert answered.asked == [(opcode, b"name\0")]
        assert answered.request(Opcode.FLUSH, bytes(24)) == (0, b"")


@pytest.mark.parametrize("error", [0, errno.ENOENT])
@pytest.mark.parametrize("name", REQUESTS)
def test_replies_to_the_helper_are_not_cached(name: str, error: int) -> None:
    """fuse/events.py: so the next program asks. Until then the kernel's size is not relied on (vfs/semantics.md 3.17)."""
    opcode, before, instead = REQUESTS[name]
    with Answered(HelperCall(name, "x"), error) as answered:
        code, body = answered.request(opcode, bytes(before) + b"name\0")
        kept = bytes(before) + b"name\0" if instead is opcode else bytes(16) if before == 88 else b"name\0"
        assert answered.asked == ([(instead, kept)] if instead is not None else [])
        assert code == (error if instead else 0)
        valid = {Opcode.LOOKUP: slice(16, 40), Opcode.GETATTR: slice(0, 12)}.get(instead or Opcode.INIT)
        if valid is None or error:
            assert len(body) == (16 if name == "close" else 0)
            assert not any(answered.sizes.may_differ(node, SIZE) for node in (NODE, DIRECTORY))
            return
        assert not any(body[valid])
        assert b"\0" not in body[valid.stop :].replace(struct.pack("=Q", SIZE), b"")
        assert answered.sizes.may_differ(NODE if instead is Opcode.LOOKUP else DIRECTORY, SIZE)


def test_the_release_of_a_helpers_file_is_distinguished_from_others() -> None:
    """fuse/events.py: it names no process; libfuse knows nothing of that file."""
    with Answered(HelperCall("close", "x")) as answered:
        (handle,) = struct.unpack_from("=Q", answered.request(Opcode.OPEN, bytes(8))[1])
        answered.teller._call = None
        assert not answered.released(1)
        with pytest.raises(BlockingIOError):
            answered.answered()
        assert answered.released(handle)
        assert answered.answered() == (0, b"")


@pytest.mark.parametrize(
    ("there", "moves"),
    [({"new": 1}, True), ({"new": 1, "old": 2}, False), ({"new": 2}, False), ({}, False), ({"new": 1, "old": 1}, False)],
)  # fmt: skip
def test_a_node_moves_only_if_it_is_still_the_renamed_file(there: dict[str, int], moves: bool) -> None:
    """vfs/semantics.md 7.3: a program may have made a file at either name since."""

    def known(path: str) -> Attr:
        if path not in there:
            raise FsError(errno.ENOENT)
        return ATTR._replace(ino=there[path])

    injector = EventInjector(known)
    assert not injector.has_moved("old", "new"), "the earlier file is not known"
    injector.previous_attrs = {"old": ATTR}
    assert injector.has_moved("old", "new") is moves


def test_the_helper_finds_the_state_that_its_call_requires() -> None:
    """fuse/events.py: what is made or renamed is not there before; what is deleted is as it was; all else as it is known."""
    gone = ATTR._replace(size=7)
    with Answered(HelperCall("create", "new")) as answered:
        injector = answered.teller
        with pytest.raises(FsError) as refused:
            injector.attr_for_helper("new")
        assert (refused.value.errno, injector.attr_for_helper("other")) == (errno.ENOENT, ATTR)
        answered.request(Opcode.MKNOD, bytes(16) + b"new\0")
        assert injector.attr_for_helper("new") == ATTR
        injector.previous_attrs = {"old": gone, "d": gone, "d/old": gone, "e": gone}
        injector._call, injector._has_reached_request = HelperCall("rename", "old", "new"), False
        assert injector.attr_for_helper("old") == gone
        with pytest.raises(FsError):
            injector.attr_for_helper("new")
        injector._call = HelperCall("unlink", "old")
        assert (injector.attr_for_helper("old"), injector.attr_for_helper("new")) == (gone, ATTR)
        injector._call = HelperCall("unlink", "d/old")
        assert (injector.attr_for_helper("d"), injector.attr_for_helper("e")) == (gone, ATTR), (
            "directories on the way"
        )
        injector._call = HelperCall("create", "d/new")
        assert injector.attr_for_helper("d") == ATTR, "it is a directory now"
