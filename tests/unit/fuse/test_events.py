"""Events by a helper: the calls that it makes, its life, and the answers that its requests get."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.unit.vfs.world import World

from jobfs.errors import FsError
from jobfs.fuse.driver import FuseDriver
from jobfs.fuse.events import EventInjector, HelperCall
from jobfs.fuse.requests import Opcode
from jobfs.fuse.sizes import KernelSizes
from jobfs.nodes import Attr

from .conftest import Helper
from .kernel import KEEP_CACHE, NO_FLUSH, ROOT, Kernel

ATTR = Attr(1, stat.S_IFREG | 0o644, 1, 0, 0, 5, 0, 0, 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path


@pytest.fixture
def injector(place: Path) -> Iterator[EventInjector]:
    injector = EventInjector(lambda path: ATTR)
    injector.mount = (str(place), place.stat().st_dev)
    yield injector
    injector.close()


def test_the_helper_answers_call_after_call(place: Path, injector: EventInjector) -> None:
    """fuse/events.py: names of any kind; one process does it all."""
    odd = "l'ine\n\"ü"
    assert [injector.inject(HelperCall("create", odd)) for _ in range(2)] == [0, errno.EEXIST]
    assert injector.inject(HelperCall("rename", odd, "new")) == 0
    assert (place / "new").exists()
    assert len(injector.helpers) == 1


def test_the_helper_keeps_nothing_in_use_and_gets_no_signal_of_a_terminal(injector: EventInjector) -> None:
    """Its working directory is on no mount, and Ctrl-C in the mount's terminal does not reach it."""
    injector.inject(HelperCall("modify", "file"))
    (process,) = injector.helpers
    assert os.readlink(f"/proc/{process}/cwd") == "/"
    assert os.readlink(f"/proc/{process}/fd/2") == os.devnull
    assert os.getsid(process) == process


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


def test_a_dead_helper_is_remembered_until_it_is_replaced(injector: EventInjector) -> None:
    """fuse/events.py: libfuse knows nothing of the file that it had open; it aborts if it hears of the release."""
    injector.inject(HelperCall("modify", "file"))
    ((process, helper),) = injector.helpers.items()
    helper.kill()
    helper.wait()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # no process can be started
    try:
        assert injector.inject(HelperCall("modify", "file")) == errno.EPIPE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
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


#: The request by which each call does its work, and what comes before its name.
REQUESTS = {
    "create": (Opcode.MKNOD, 16), "mkdir": (Opcode.MKDIR, 8), "unlink": (Opcode.UNLINK, 0), "rmdir": (Opcode.RMDIR, 0),
    "rename": (Opcode.RENAME, 8), "modify": (Opcode.SETATTR, 88), "attributes": (Opcode.SETATTR, 88), "close": (Opcode.OPEN, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", [*REQUESTS, None])
def test_a_helper_has_only_the_request_of_its_call(
    world: World, kernel: Kernel, helper: Helper, name: str | None
) -> None:
    """vfs/semantics.md 7.7: any other request, such as one that comes late, is refused, and does not reach libfuse."""
    others = {*Opcode, 5, 6, 13, 16, 17, 21, 22, 36, 45} - {
        Opcode.LOOKUP, Opcode.GETATTR, Opcode.FLUSH, Opcode.FORGET, Opcode.RELEASE,
    }  # fmt: skip
    if name is not None:
        helper.begin(HelperCall(name, "file", "new" if name == "rename" else ""))
        others.remove(REQUESTS[name][0])
    for opcode in others:
        assert errno_from(kernel.call, opcode, bytes(96) + b"file\0", thread=helper.pid) == errno.EIO, opcode
    assert kernel.call(Opcode.FLUSH, bytes(24), thread=helper.pid) == b""
    assert world.requests() == []
    assert {name for name, _ in world.vfs.listdir("")} == {"file", "other", "dir"}


@pytest.mark.parametrize("name", [None, "create", "mkdir", "modify", "attributes"])
def test_attributes_in_replies_to_the_helper_are_valid_for_no_time(
    world: World, kernel: Kernel, helper: Helper, name: str | None, sizes: KernelSizes
) -> None:
    """fuse/events.py: so the next program asks. Until then the kernel's size is not relied on (vfs/semantics.md 3.17)."""
    node, size = kernel.lookup("file").node, struct.pack("=Q", len(b"old"))
    if name is not None:
        helper.begin(HelperCall(name, "dir/new"))
    opcode, before = REQUESTS.get(name or "", (Opcode.LOOKUP, 0))
    reply = kernel.call(opcode, bytes(before) + b"file\0", node if before == 88 else ROOT, thread=helper.pid)
    if before == 88:
        assert (reply[:12], reply[24:32]) == (bytes(12), size)
    else:
        assert (reply[:8], reply[16:40], reply[48:56]) == (struct.pack("=Q", node), bytes(24), size)
    assert sizes.get(node) is None
    assert world.requests() == []


@pytest.mark.parametrize(("name", "reply"), [
    ("unlink", b""), ("close", struct.pack("=QII", 2**64 - 2, KEEP_CACHE | NO_FLUSH, 0))
])  # fmt: skip
def test_a_removal_or_an_open_of_the_helper_is_only_answered(
    world: World, kernel: Kernel, helper: Helper, name: str, reply: bytes
) -> None:
    node = kernel.lookup("file").node
    helper.begin(HelperCall(name, "file"))
    assert kernel.call(REQUESTS[name][0], b"file\0".rjust(16, b"\0"), node, thread=helper.pid) == reply
    assert (kernel.lookup("file").node, world.vfs.is_open("file")) == (node, False)


@pytest.mark.parametrize(("call", "previous", "missing"), [
    (HelperCall("create", "file"), "", "file"), (HelperCall("mkdir", "file"), "", "file"),
    (HelperCall("create", "dir/new"), "", ""),
    (HelperCall("rename", "dir", "file"), "dir", "file"), (HelperCall("unlink", "file"), "file", ""),
    (HelperCall("unlink", "dir/gone"), "dir", ""), (HelperCall("rmdir", "dir"), "dir", ""),
    (HelperCall("modify", "file"), "", ""), (None, "", ""),
], ids=str)  # fmt: skip
def test_the_helper_finds_the_state_that_its_call_requires(
    world: World, driver: FuseDriver, helper: Helper, call: HelperCall | None, previous: str, missing: str
) -> None:
    """fuse/events.py: a name to be made is not there, and a name to be removed is as it was, with the directories above it."""
    now = {path: world.vfs.getattr(path) for path in ("file", "other", "dir")}
    before = {path: attr._replace(size=77) for path, attr in now.items()}
    if call is not None:
        helper.begin(call, **before)
    for path in now:
        if path == missing:
            assert errno_from(driver.injector.attr_for_helper, path) == errno.ENOENT
        else:
            assert driver.injector.attr_for_helper(path) == (before if path == previous else now)[path]
    driver.injector.mark_request_reached()
    assert {path: driver.injector.attr_for_helper(path) for path in now} == now


@pytest.mark.parametrize(("there", "moves"), [
    ({"new": 1}, True), ({"new": 1, "old": 2}, False), ({"new": 2}, False), ({}, False), ({"new": 1, "old": 1}, False),
])  # fmt: skip
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
