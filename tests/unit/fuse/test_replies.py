"""What libfuse's replies lack: sizes that are noted, errors that make the kernel look again, and READDIRPLUS."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
from collections.abc import Callable
from functools import partial

import fuse
import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.unit.save.world import away
from tests.unit.vfs.world import World

from jobfs.errors import FsError
from jobfs.fuse.driver import FuseDriver
from jobfs.fuse.loop import LoopPool
from jobfs.fuse.replies import ReadDirPlus
from jobfs.fuse.requests import CurrentSlot, Opcode, WorkerSlot
from jobfs.fuse.sizes import KernelSizes

from .conftest import Hooks
from .kernel import ENTRY, MEGABYTE, NO_FLUSH, Kernel, SocketMount

# Flags of INIT.
BIG_WRITES, READDIRPLUS, MAX_PAGES = 1 << 5, 1 << 13 | 1 << 14, 1 << 22
#: libfuse 2.9's reply to INIT, which ends with `max_write`; and what follows that in a longer one.
INIT, AFTER = struct.Struct("=IIIIHHI"), struct.Struct("=IHH")


# INIT


@pytest.mark.parametrize("offered", [READDIRPLUS, MAX_PAGES, READDIRPLUS | MAX_PAGES, 0])
def test_the_kernel_gets_offers_that_libfuse_lacks(mount: SocketMount, pool: LoopPool, offered: int) -> None:
    """fuse/notes.md, Files: a write of 1 MiB is one request; before Linux 4.20, and else, libfuse's reply stays."""
    reply = mount.kernel.init(offered | BIG_WRITES)
    major, _, readahead, flags, *_, max_write = INIT.unpack_from(reply)
    assert (major, readahead, flags & (READDIRPLUS | MAX_PAGES)) == (7, MEGABYTE, offered)
    if offered & MAX_PAGES:
        granularity, pages, alignment = AFTER.unpack(reply[INIT.size :])
        assert (max_write, granularity, pages * mmap.PAGESIZE, alignment) == (MEGABYTE, 0, MEGABYTE, 0)
    else:
        assert (max_write, len(reply)) == (32 * 4096, INIT.size)


def test_an_init_that_libfuse_refuses_stays_refused(mount: SocketMount, pool: LoopPool) -> None:
    old = struct.pack("=IIII48x", 6, 0, 0, MAX_PAGES)
    assert errno_from(mount.kernel.call, Opcode.INIT, old) == errno.EPROTO


# READDIRPLUS


@pytest.fixture
def many(world: World) -> World:
    """Fifty files more, of one of which the server gives no size."""
    world.seed({f"file {number}": b"x" for number in range(50)})
    world.omit_size("file 7")
    world.list_again()
    return world


def test_a_listing_brings_the_node_of_each_name(many: World, kernel: Kernel) -> None:
    """No request is made for it: a name whose size is not known comes without a node. The rest comes with the next request."""
    found = kernel.list(opcode=Opcode.READDIRPLUS, room=1000)
    assert many.requests() == []
    assert (len(found), [name for name, node in found.items() if not node]) == (55, [".", "..", "file 7"])
    assert all(node == kernel.lookup(name).node for name, node in found.items() if node)


def test_a_listing_has_no_size_other_than_the_kernels(kernel: Kernel, sizes: KernelSizes) -> None:
    """vfs/semantics.md 1, TTL: it drops what came while the listing was made, and would read a new version to the old end."""
    node = kernel.lookup("file").node
    sizes.note_sent(node, 99, sizes.logical_clock)
    found = kernel.list(opcode=Opcode.READDIRPLUS)
    assert (found["file"], bool(found["other"])) == (0, True)
    assert (sizes.get(node), sizes.get(found["other"])) == (99, len(b"another"))
    kernel.forget(node)
    assert kernel.lookup("file").node != node, "libfuse has forgotten the lookup of the listing"


def test_an_error_of_a_listing_is_passed_on(world: World, kernel: Kernel) -> None:
    node = kernel.lookup("dir").node
    world.server.items.pop("id of dir")
    world.list_again()
    assert errno_from(kernel.list, node, Opcode.READDIRPLUS) == errno.ENOENT


def test_a_listing_has_an_entry_that_just_fits(kernel: Kernel) -> None:
    """An empty reply would be the end of the listing."""
    room = ENTRY + 32
    assert len(kernel.call(Opcode.READDIRPLUS, struct.pack("=QQII16x", kernel.opendir(), 0, room, 0))) == room


def test_nodes_of_a_listing_that_the_kernel_refuses_are_forgotten(
    many: World, mount: SocketMount, kernel: Kernel, sizes: KernelSizes
) -> None:
    """The listing of a killed program is refused: the kernel would never ask libfuse to forget its nodes."""
    node = kernel.lookup("file").node
    with mount.long_replies_refused():
        kernel.send(Opcode.READDIRPLUS, struct.pack("=QQII16x", kernel.opendir(), 0, 1 << 15, 0))
        eventually(lambda: sizes.may_differ(node + 50, 1))
    assert sizes.get(node + 1) is None
    assert kernel.lookup("other").node > node + 50


def test_a_lookup_that_detaches_a_node_is_forgotten() -> None:
    """fuse/replies.py, Detached nodes: libfuse counts lookups, and the kernel has not received the reply to this one."""
    asked, slot, current = list[bytes](), WorkerSlot(4096), CurrentSlot()
    plus = ReadDirPlus(
        -1, lambda address, size: asked.append(ctypes.string_at(address, size)), current, KernelSizes()
    )
    lookup = struct.pack("=IIQQ16x", 45, Opcode.LOOKUP, 77, 5) + b"file\0"
    ctypes.memmove(slot.address, lookup, len(lookup))
    current.slot, slot.captured_reply, slot.request.must_detach_node = slot, struct.pack("=Q", 11), True
    plus.detach_node(slot, len(lookup))
    assert asked == [
        struct.pack("=IIQQ16x", 45, Opcode.UNLINK, 77, 5) + b"file\0",
        struct.pack("=IIQQ16xQ", 48, Opcode.FORGET, 77, 11, 1),
    ]
    assert not slot.request.must_detach_node


# Sizes that the kernel gets


def lookup(kernel: Kernel, node: int) -> int:
    return kernel.send(Opcode.LOOKUP, b"file\0")


def get_attributes(kernel: Kernel, node: int) -> int:
    return kernel.send(Opcode.GETATTR, bytes(16), node)


def set_mode(kernel: Kernel, node: int) -> int:
    return kernel.send(Opcode.SETATTR, struct.pack("=I64xI16x", 1, stat.S_IFREG | 0o600), node)


#: The requests about a file whose replies have its size.
SIZED = pytest.mark.parametrize("request_size", [lookup, get_attributes, set_mode])


@SIZED
def test_every_reply_with_a_size_is_noted(
    kernel: Kernel, request_size: Callable[[Kernel, int], int], sizes: KernelSizes
) -> None:
    """vfs/semantics.md 3.17."""
    node = kernel.lookup("file").node
    sizes.forget(node)
    kernel.receive(request_size(kernel, node))
    assert sizes.get(node) == len(b"old")


@SIZED
def test_a_size_is_unknown_if_another_reply_overlaps(
    world: World,
    kernel: Kernel,
    driver: FuseDriver,
    request_size: Callable[[Kernel, int], int],
    hooks: Hooks,
    sizes: KernelSizes,
) -> None:
    """vfs/semantics.md 3.17: the kernel drops one of the two."""
    node = kernel.lookup("file").node
    hooks["getattr"] = lambda path: sizes.note_sent(node, 50, sizes.logical_clock)
    driver.get_attr_cache().clear()
    kernel.receive(request_size(kernel, node))
    assert sizes.get(node) is None


@SIZED
def test_a_size_is_unknown_if_its_reply_does_not_arrive(
    mount: SocketMount, kernel: Kernel, request_size: Callable[[Kernel, int], int], sizes: KernelSizes
) -> None:
    node = kernel.lookup("file").node
    mount.refuse_replies()
    request_size(kernel, node)
    eventually(lambda: sizes.get(node) is None)


def test_the_size_of_a_created_or_truncated_file_is_zero(kernel: Kernel, sizes: KernelSizes) -> None:
    """vfs/semantics.md 3.17: the reply to an open with O_TRUNC has no size, and the kernel sets it."""
    assert sizes.get(kernel.create("new").node) == 0
    node = kernel.lookup("file").node
    kernel.open(node, os.O_RDWR)
    assert sizes.get(node) == len(b"old")
    assert kernel.read(kernel.open(node, os.O_RDWR | os.O_TRUNC)) == b""
    assert sizes.get(node) == 0


@pytest.mark.parametrize(
    ("flags", "no_flush"), [(os.O_RDONLY, NO_FLUSH), (os.O_RDWR, 0), (os.O_RDONLY | os.O_TRUNC, 0)]
)
def test_a_file_that_is_only_read_is_not_flushed(kernel: Kernel, flags: int, no_flush: int) -> None:
    assert kernel.open(kernel.lookup("file").node, flags).reply_flags & NO_FLUSH == no_flush


# Nodes that have lost their file


@pytest.mark.parametrize("request_of", [Kernel.open, Kernel.getattr])
def test_the_kernel_looks_again_once_for_a_lost_file(
    world: World, kernel: Kernel, request_of: Callable[..., object]
) -> None:
    """fuse/notes.md, Errors: ESTALE makes it look up the name; `rm -rf` expects ENOENT of a removed directory then."""
    node, other = kernel.lookup("file").node, kernel.lookup("other").node
    world.server.items.clear()
    world.list_again()
    numbers = [errno_from(request_of, kernel, node) for _ in range(3)]
    assert numbers == [errno.ESTALE, errno.ENOENT, errno.ESTALE]
    assert errno_from(request_of, kernel, other) == errno.ESTALE, "another node"
    assert errno_from(request_of, kernel, other, thread=2) == errno.ESTALE, "another thread"


def test_an_open_that_succeeds_ends_the_second_look(world: World, kernel: Kernel) -> None:
    node = kernel.lookup("file").node
    item = world.server.items.pop("id of file")
    world.list_again()
    assert errno_from(kernel.open, node) == errno.ESTALE
    world.server.items["id of file"] = item
    world.list_again()
    kernel.release(kernel.open(node))
    world.server.items.clear()
    world.list_again()
    assert errno_from(kernel.open, node) == errno.ESTALE


@pytest.mark.parametrize("closing", [1, 2])
def test_a_stat_through_a_closing_handle_uses_another(
    world: World, kernel: Kernel, driver: FuseDriver, closing: int, hooks: Hooks
) -> None:
    """vfs/semantics.md 4: a name is there at every moment, also where its last reader ends while another file takes it."""
    node = kernel.lookup("file").node
    files = [kernel.open(node) for _ in range(2)]
    kernel.unlink("file")
    closes = [file.handle for file in files][:closing]

    def close_first(handle: int) -> None:
        if handle in closes:
            driver.release(None, fuse.fuse_file_info(fh=handle))

    hooks["fgetattr"] = close_first
    assert errno_from(kernel.getattr, node) == (0 if closing == 1 else errno.ESTALE)


def test_a_stat_of_an_unlinked_file_shows_each_write(kernel: Kernel) -> None:
    """vfs/semantics.md 4.33: none is repeated, although nothing else changes."""
    file = kernel.open(kernel.lookup("file").node, os.O_RDWR)
    kernel.unlink("file")
    for size in (5, 9):
        kernel.write(file, bytes(size))
        assert kernel.getattr(file.node).size == size


def test_no_stat_uses_a_handle_whose_close_has_failed(kernel: Kernel, hooks: Hooks) -> None:
    """vfs/semantics.md 4.33: its number is no longer that of a file."""
    file = kernel.open(kernel.lookup("file").node)
    kernel.unlink("file")
    hooks["release"] = partial(away, FsError(errno.ENOSPC))
    kernel.release(file)
    assert errno_from(kernel.getattr, file.node) == errno.ESTALE
