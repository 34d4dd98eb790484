"""A session and its threads: the kernel's requests are served by libfuse and the driver, several at once."""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually, eventually_equal
from tests.unit.vfs.world import World

from jobfs.api.deadline import call_blocking_hook, current_deadline
from jobfs.errors import UsageError
from jobfs.fuse.driver import FuseDriver
from jobfs.fuse.events import HelperCall
from jobfs.fuse.loop import IDLE_THREADS, LoopPool, ReadToken, Session
from jobfs.fuse.requests import Opcode, WorkerSlot
from jobfs.fuse.sizes import KernelSizes

from .conftest import VALID, Helper, Hooks
from .kernel import MEGABYTE, MKNOD, ROOT, STATFS, Kernel, SocketMount

OLD, NEW = b"old", b"longer"


# Mounting


def test_libfuse_gets_the_options_and_the_mount_point(mount: SocketMount, session: Session) -> None:
    assert mount.words[:3] + mount.words[4:] == [b"jobfs", b"-f", b"-o", b"/mnt"]
    assert mount.words[3].startswith(b"use_ino,hard_remove,attr_timeout=5.0,")


@pytest.mark.parametrize(
    ("complaint", "reason"), [(b"fusermount: no\xff\n", "fusermount: no\ufffd"), (b"", "libfuse gave no reason")]
)  # fmt: skip
def test_a_failed_mount_is_reported_in_the_words_of_libfuse(
    mount: SocketMount, driver: FuseDriver, complaint: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    mount.complaint = complaint
    with pytest.raises(UsageError) as failed:
        Session(driver, "/mnt", [], mount.calls)
    assert str(failed.value) == f"could not mount: {reason}"
    os.write(2, b"later")
    assert capfd.readouterr().err == "later"


@pytest.mark.parametrize(("offered", "longest"), [(0, 32 * 4096), (1 << 22, MEGABYTE)])
def test_the_kernel_learns_the_longest_write_at_its_first_request(
    mount: SocketMount, session: Session, pool: LoopPool, offered: int, longest: int
) -> None:
    """fuse/notes.md, Files: the kernel refuses to read into a buffer that is shorter."""
    reply = mount.kernel.init(offered)
    assert int.from_bytes(reply[20:24], "little") == longest
    file = mount.kernel.create("new")
    data = os.urandom(longest)
    assert mount.kernel.write(file, data) == longest
    assert mount.kernel.getattr(file.node, file.handle).size == longest


# Threads


@pytest.fixture
def held(kernel: Kernel, hooks: Hooks) -> Iterator[Held]:
    held = Held(kernel)
    hooks["statfs"] = held.wait
    yield held
    held.answered.set()


class Held:
    """Calls for `statfs`, which wait until they are `answered`; `is_announced`: their threads say first that they will wait."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._waiting = kernel, threading.Semaphore(0)
        self.answered = threading.Event()
        self.is_announced = True

    def wait(self) -> None:
        if self.is_announced:
            call_blocking_hook()
        self._waiting.release()
        self.answered.wait()

    def begin(self, count: int = 1) -> list[int]:
        """Make so many calls, and return their numbers once they wait."""
        numbers = [self._kernel.send(STATFS) for _ in range(count)]
        for _ in numbers:
            assert self._waiting.acquire(timeout=20)
        return numbers


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fuse-")]


@pytest.fixture
def undisturbed(pool: LoopPool) -> LoopPool:
    """The pool without its interrupter, which otherwise replaces threads that wait unannounced."""
    pool.join(0)
    return pool


def test_a_call_that_announces_its_wait_delays_no_other(
    kernel: Kernel, undisturbed: LoopPool, held: Held
) -> None:
    """vfs/semantics.md 3: known answers come at once, whatever other calls wait for."""
    waiting = held.begin(3)
    assert stat.S_ISDIR(kernel.getattr().mode)
    held.answered.set()
    assert [len(kernel.receive(number)) for number in waiting] == [80] * 3


def test_a_call_that_waits_unannounced_delays_others_for_a_moment(kernel: Kernel, held: Held) -> None:
    """Such as a call that waits for a slow disk."""
    held.is_announced = False
    held.begin(3)
    assert stat.S_ISDIR(kernel.getattr().mode)


def test_threads_that_are_no_longer_needed_end(kernel: Kernel, held: Held) -> None:
    waiting = held.begin(IDLE_THREADS + 8)
    assert len(loop_threads()) > IDLE_THREADS + 8
    held.answered.set()
    for number in waiting:
        kernel.receive(number)
    eventually(lambda: len(loop_threads()) == IDLE_THREADS + 1, loop_threads)
    threads = loop_threads()
    held.answered.clear()
    held.begin()
    assert stat.S_ISDIR(kernel.getattr().mode)
    assert loop_threads() == threads, "an idle thread reads, in place of the one that waits"


def test_a_thread_that_cannot_start_is_started_at_the_next_check(
    kernel: Kernel, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    threading.stack_size(1 << 47)  # more than any process can map
    try:
        held.begin()
    finally:
        threading.stack_size(0)
    assert "no thread for another request: can't start new thread" in caplog.text
    assert stat.S_ISDIR(kernel.getattr().mode)


def test_a_thread_loses_the_read_token_once_however_often_it_waits() -> None:
    started = list[int]()
    token, slot = ReadToken(lambda: started.append(1)), WorkerSlot(64)
    assert token.acquire(slot)
    token.pass_on(slot)
    token.pass_on(slot)
    assert started == [1]
    assert not token.surrender(slot)
    token.revoke([])
    assert started == [1, 1], "a thread that could not be started is started at the next check"
    assert token.acquire(slot)


def test_a_call_has_the_time_limit_of_the_mount(kernel: Kernel, driver: FuseDriver, hooks: Hooks) -> None:
    limits = list[Any]()
    hooks["statfs"] = lambda: limits.append((deadline := current_deadline()) and deadline.timeout)
    driver.timeout = 7.0
    kernel.call(STATFS)
    assert limits == [7.0]


def test_a_request_that_was_withdrawn_is_skipped(mount: SocketMount, kernel: Kernel) -> None:
    """The kernel withdraws a request of a killed program: the read fails, and the next one brings another request."""
    mount.errors = [errno.ENOENT, errno.EINTR, errno.EAGAIN]
    for _ in range(3):
        kernel.send(Opcode.GETATTR, bytes(16))
    assert stat.S_ISDIR(kernel.getattr().mode)


def test_an_unexpected_error_is_answered_and_its_thread_continues(
    kernel: Kernel, undisturbed: LoopPool, driver: FuseDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 3.15: no call waits forever."""
    threads, cache = loop_threads(), driver.get_attr_cache()
    cache[ROOT] = 7  # type: ignore[assignment]
    number = kernel.send(Opcode.GETATTR, bytes(16))
    assert errno_from(kernel.receive, number) == errno.EIO
    cache.clear()
    assert f"request {number} (opcode 3) failed unexpectedly" in caplog.text
    assert stat.S_ISDIR(kernel.getattr().mode)
    assert loop_threads() == threads


# The end


def test_the_end_is_reported_once_and_every_thread_ends(
    mount: SocketMount, kernel: Kernel, pool: LoopPool, held: Held, ends: list[int]
) -> None:
    held.begin(3)
    mount.unmount()
    eventually_equal(lambda: ends, [1])
    assert not pool.join(0), "calls are still in progress"
    held.answered.set()
    assert pool.join(20)
    assert (ends, loop_threads()) == ([1], [])


def test_a_mount_ends_once_its_last_thread_cannot_read(
    mount: SocketMount,
    kernel: Kernel,
    undisturbed: LoopPool,
    held: Held,
    ends: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    held.begin()
    mount.errors = [errno.EBADF]
    kernel.send(Opcode.GETATTR, bytes(16))
    eventually(lambda: "could not read requests, and ends: [Errno 9]" in caplog.text)
    held.answered.set()
    assert (stat.S_ISDIR(kernel.getattr().mode), ends) == (True, [])
    mount.errors = [errno.EBADF]
    kernel.send(Opcode.GETATTR, bytes(16))
    eventually_equal(lambda: ends, [1])


def test_no_call_begins_after_the_pool_was_closed(
    mount: SocketMount, kernel: Kernel, pool: LoopPool, world: World, ends: list[int]
) -> None:
    """A program whose call is not begun gets an error when the process ends, and nothing has been done."""
    assert pool.close(20)
    kernel.send(Opcode.RMDIR, b"dir\0")
    eventually_equal(lambda: ends, [1])
    assert {name for name, _ in world.vfs.listdir("")} == {"file", "other", "dir"}


def test_a_close_waits_for_calls_that_run(
    kernel: Kernel, session: Session, pool: LoopPool, held: Held
) -> None:
    (number,) = held.begin()
    with ThreadPoolExecutor() as other:
        answered = other.submit(pool.close, 20)
        eventually(lambda: session.closed)
        held.answered.set()
        assert answered.result(20)
    assert len(kernel.receive(number)) == 80


def test_no_reply_reaches_a_program_after_the_time_for_the_last_calls(
    mount: SocketMount, kernel: Kernel, pool: LoopPool, held: Held
) -> None:
    """A change that is not awaited may or may not be done: its program gets no answer."""
    held.begin()
    assert not pool.close(0.0)
    held.answered.set()
    mount.unmount()
    assert pool.join(20)
    assert not mount.kernel.has_message()


# What the kernel gets


def replace_by_job(world: World) -> None:
    world.put("file", NEW)
    world.list_again()


def test_the_kernel_gets_the_attributes_of_the_vfs(world: World, kernel: Kernel) -> None:
    attr = world.vfs.getattr("file")
    for found in (kernel.lookup("file").attributes, kernel.getattr(kernel.lookup("file").node)):
        assert (found.ino, found.mode, found.uid, found.gid, found.size, found.mtime) == (
            attr.ino, attr.mode, attr.uid, attr.gid, attr.size, attr.mtime_ns,
        )  # fmt: skip
        assert found.valid == VALID
    assert errno_from(kernel.lookup, "none") == errno.ENOENT
    assert errno_from(kernel.lookup, "\udcff") == errno.EILSEQ


def test_a_known_reply_is_repeated_until_anything_has_changed(
    world: World, kernel: Kernel, driver: FuseDriver, sizes: KernelSizes
) -> None:
    """vfs/semantics.md 1.4: a change is seen within the TTL; until then the kernel's question costs nothing."""
    node = kernel.lookup("file").node
    first = kernel.getattr(node)
    cache = driver.get_attr_cache()
    reply = bytearray(cache[node])
    reply[24:32] = (77).to_bytes(8, "little")
    cache[node] = bytes(reply)
    assert kernel.getattr(node) == first._replace(size=77)
    assert sizes.get(node) == 77
    file = kernel.open(kernel.lookup("file").node)
    assert kernel.getattr(node, file.handle).size == len(OLD), "the handle's own attributes"
    kernel.release(file)
    replace_by_job(world)
    assert kernel.getattr(node).size == len(NEW)


def test_attributes_that_change_by_themselves_are_not_repeated(kernel: Kernel, driver: FuseDriver) -> None:
    file = kernel.create("new")
    kernel.write(file, b"data")
    assert (kernel.getattr(file.node).size, kernel.getattr(file.node, file.handle).size) == (4, 4)
    assert file.node not in driver.get_attr_cache()


def test_a_repeated_reply_that_is_refused_leaves_the_size_unknown(
    mount: SocketMount, kernel: Kernel, sizes: KernelSizes
) -> None:
    """vfs/semantics.md 3.17: its program got EINTR instead."""
    node = kernel.lookup("file").node
    kernel.getattr(node)
    mount.refuse_replies()
    kernel.send(Opcode.GETATTR, bytes(16), node)
    eventually(lambda: sizes.get(node) is None)


def test_a_file_is_read_and_written_at_its_offsets(world: World, kernel: Kernel, driver: FuseDriver) -> None:
    file = kernel.open(kernel.lookup("file").node, os.O_RDWR)
    assert [kernel.read(file), kernel.read(file, 2), kernel.read(file, 9, 1), kernel.read(file, 9, 3)] == [
        b"old", b"ol", b"ld", b"",
    ]  # fmt: skip
    assert kernel.write(file, b"DER", 2) == 3
    assert kernel.read(file) == b"olDER"
    kernel.flush(file)
    kernel.fsync(file)
    assert b"olDER" in world.server.contents.values()
    assert driver.nodes == {file.handle: file.node}
    kernel.release(file)
    assert driver.nodes == {}
    assert errno_from(kernel.read, file) == errno.EBADF


def test_a_directory_lists_its_names(kernel: Kernel) -> None:
    assert kernel.list().keys() == {".", "..", "file", "other", "dir"}


def test_a_removed_directory_that_is_open_lists_nothing(kernel: Kernel) -> None:
    node = kernel.lookup("dir").node
    assert kernel.list(node).keys() == {".", ".."}
    request = struct.pack("=QQII16x", kernel.opendir(node), 0, 4096, 0)
    kernel.rmdir("dir")
    assert errno_from(kernel.call, Opcode.READDIR, request, node) == errno.ENOENT
    assert errno_from(kernel.list, node) == errno.ENOENT


def test_an_open_file_outlives_its_name(kernel: Kernel) -> None:
    """fuse/notes.md, Files: libfuse has no path for its node, and `fstat` names no handle."""
    node = kernel.lookup("file").node
    file = kernel.open(node)
    kernel.unlink("file")
    assert errno_from(kernel.lookup, "file") == errno.ENOENT
    assert kernel.read(file) == OLD
    assert (kernel.getattr(node).size, kernel.getattr(node, file.handle).size) == (3, 3)


# Two versions of a file at once


def test_a_lookup_finds_a_new_version_at_a_node_of_its_own(world: World, kernel: Kernel) -> None:
    """vfs/semantics.md 3.13: the program that reads the old version stays at its node."""
    old = kernel.lookup("file").node
    file = kernel.open(old)
    assert kernel.read(file) == OLD
    replace_by_job(world)
    new = kernel.lookup("file")
    assert (new.node != old, new.attributes.size, new.attributes.valid) == (True, len(NEW), VALID)
    assert kernel.read(kernel.open(new.node)) == NEW
    assert kernel.read(file) == OLD
    assert kernel.getattr(old).size == len(OLD)


def test_a_node_shows_the_version_that_is_open_there(world: World, kernel: Kernel) -> None:
    """vfs/semantics.md 3.13. The kernel keeps nothing of it: the next open may find another version."""
    node = kernel.lookup("file").node
    file = kernel.open(node)
    assert kernel.read(file) == OLD
    assert kernel.getattr(node, file.handle).valid == VALID
    replace_by_job(world)
    for found in (kernel.getattr(node), kernel.getattr(node, file.handle)):
        assert (found.size, found.valid) == (len(OLD), 0.0)


def test_a_file_that_is_open_for_writing_keeps_its_node(world: World, kernel: Kernel) -> None:
    before = kernel.lookup("file")
    file = kernel.open(before.node, os.O_RDWR)
    assert kernel.read(file) == OLD
    replace_by_job(world)
    found = kernel.lookup("file")
    assert (found.node, found.attributes.valid) == (before.node, 0.0)
    assert found.attributes.ino == before.attributes.ino


# Requests of the helper that produces events


def test_an_event_of_a_creation_changes_nothing(world: World, kernel: Kernel, helper: Helper) -> None:
    """vfs/semantics.md 7.7: until the helper creates the name, it finds nothing there; then the job's file."""
    helper.begin(HelperCall("create", "file"))
    assert errno_from(kernel.lookup, "file", thread=helper.pid) == errno.ENOENT
    assert kernel.lookup("file").attributes.size == len(OLD), "programs find it"
    kernel.call(MKNOD, struct.pack("=IIII", stat.S_IFREG | 0o644, 0, 0, 0) + b"file\0", thread=helper.pid)
    found = kernel.lookup("file", thread=helper.pid).attributes
    assert (found.size, found.valid) == (len(OLD), 0.0)
    assert world.requests() == []


def test_an_event_of_an_rmdir_removes_only_the_node(world: World, kernel: Kernel, helper: Helper) -> None:
    """fuse/notes.md, Events: a new directory of the same name has another node."""
    node = kernel.lookup("dir").node
    helper.begin(HelperCall("rmdir", "dir"), dir=world.vfs.getattr("dir"))
    kernel.call(Opcode.RMDIR, b"dir\0", thread=helper.pid)
    assert {name for name, _ in world.vfs.listdir("")} == {"file", "other", "dir"}
    assert kernel.lookup("dir").node != node


@pytest.mark.parametrize(("is_open", "is_moved", "error"), [
    ("", True, 0), ("", False, errno.EBUSY), ("file", True, errno.EBUSY), ("new", True, errno.EBUSY),
], ids=["moved", "not moved", "the old file is open", "the new file is open"])  # fmt: skip
def test_an_event_of_a_rename_moves_the_node_unless_the_file_is_open(
    world: World, kernel: Kernel, helper: Helper, is_open: str, is_moved: bool, error: int
) -> None:
    """vfs/semantics.md 7.3: the kernel keeps the pages of the file that the job has renamed."""
    before, node = world.vfs.getattr("file"), kernel.lookup("file").node
    files = [kernel.open(node)] if is_open == "file" else []
    if is_moved:
        world.server.update("id of file", path="new")
        world.list_again()
    files += [kernel.open(kernel.lookup("new").node)] if is_open == "new" else []
    helper.begin(HelperCall("rename", "file", "new"), file=before)
    body = struct.pack("=Q", ROOT) + b"file\0new\0"
    assert errno_from(kernel.call, Opcode.RENAME, body, thread=helper.pid) == error
    if not error:
        assert kernel.lookup("new").node == node
    for file in files:
        assert kernel.read(file) == OLD


def test_a_file_a_helper_opens_is_unknown_to_libfuse(world: World, kernel: Kernel, helper: Helper) -> None:
    """fuse/notes.md, Events: its RELEASE names no process."""
    node = kernel.lookup("file").node
    helper.begin(HelperCall("close", "file"))
    file = kernel.open(node, os.O_WRONLY, thread=helper.pid)
    assert not world.vfs.is_open("file")
    kernel.release(file)
    other = kernel.open(node)
    kernel.release(other)
    assert not world.vfs.is_open("file")
