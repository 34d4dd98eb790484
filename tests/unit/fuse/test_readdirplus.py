"""What is added to the answers of a libfuse that is played here (fuse.answers)."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator

import pytest

pytest.importorskip("fuse", exc_type=ImportError)

from jobfs.fuse.replies import ReadDirPlus, ReplyFilter
from jobfs.fuse.requests import CurrentSlot, Opcode, Request, WorkerSlot
from jobfs.fuse.sizes import KernelSizes

UNIQUE, DIRECTORY, THREAD = 77, 5, 4711
DO_READDIRPLUS, READDIRPLUS_AUTO, BIG_WRITES = 1 << 13, 1 << 14, 1 << 5
#: Bytes of `fuse_entry_out`.
FOUND = 128


def entry(name: bytes, offset: int) -> bytes:
    """A `fuse_dirent`."""
    plain = struct.pack("=QQII", 1000 + offset, offset, len(name), 8) + name
    return plain + bytes(-len(plain) % 8)


class Libfuse:
    """Reply as libfuse does; `nodes` has the reply for a name, and `forgotten` the nodes that it was asked to forget."""

    def __init__(self) -> None:
        self.names = [b".", b"..", b"plain", b"unknown", b"last"]
        self.nodes = {b"plain": 11, b"last": 12}
        self.error, self.size, self.flags = 0, 100, BIG_WRITES
        self.asked: list[Opcode] = []
        self.forgotten: list[tuple[int, int]] = []
        self.unlinked: list[bytes] = []
        self.listing: list[bool] = []
        self.device, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.here = here = CurrentSlot()
        here.slot = self.slot = WorkerSlot(4096)
        self.sizes = KernelSizes()
        self.plus = ReadDirPlus(self.device.fileno(), self.process, here, self.sizes)
        self.answers = ReplyFilter(self.device.fileno(), here, self.sizes, {})

    def close(self) -> None:
        self.device.close()
        self.kernel.close()

    def process(self, address: int, length: int) -> None:
        request = ctypes.string_at(address, length)
        said, opcode, unique, node, *_, thread = struct.unpack_from("=IIQQIII", request)
        assert (said, unique, thread) == (length, UNIQUE, THREAD)
        self.asked.append(Opcode(opcode))
        if opcode == Opcode.FORGET:
            self.forgotten.append((node, struct.unpack_from("=Q", request, 40)[0]))
            return
        assert node == DIRECTORY
        if opcode == Opcode.UNLINK:
            self.unlinked.append(request[40:])
        elif opcode == Opcode.INIT:
            self.send(
                b"" if self.error else LIBFUSE.pack(7, 19, 131072, self.flags, 12, 9, MAX_WRITE), self.error
            )
        elif opcode == Opcode.READDIR and self.error:
            self.send(error=self.error)
        elif opcode == Opcode.READDIR:
            self.send(b"".join(entry(name, offset) for offset, name in enumerate(self.names, 1)))
        else:
            assert opcode == Opcode.LOOKUP
            self.listing.append(self.slot.request.forbids_fetch)
            found = self.nodes.get(request[40:-1])
            if found is None:
                self.send(error=errno.ENOENT)
            else:
                self.send(struct.pack("=Q40xQ", found, self.size).ljust(FOUND, b"\1"))

    def send(self, data: bytes = b"", error: int = 0, on: ReplyFilter | None = None, result: int = 0) -> None:
        head = struct.pack("=IiQ", 16 + len(data), -error, UNIQUE)
        pieces = [head] if error else [head, data]
        kept = [ctypes.create_string_buffer(piece, len(piece)) for piece in pieces]
        vector = struct.pack(
            "=" + "QQ" * len(kept), *(n for one in kept for n in (ctypes.addressof(one), len(one)))
        )
        iovec = ctypes.create_string_buffer(vector, len(vector))
        assert (on or self.plus).operations.send(0, ctypes.addressof(iovec), len(kept)) == result

    def request(self, opcode: Opcode, body: bytes) -> int:
        """Put a request of the kernel in the slot; its length."""
        head = struct.pack("=IIQQIIII", 40 + len(body), opcode, UNIQUE, DIRECTORY, 0, 0, THREAD, 0)
        ctypes.memmove(self.slot.address, head + body, len(head + body))
        self.slot.request = Request(opcode, DIRECTORY, self.sizes.logical_clock)
        return len(head + body)

    def read_directory(self, room: int = 4096) -> None:
        body = struct.pack("=QQIIQII", 1, 0, room, 0, 0, 0, 0)
        self.plus.reply_to_listing(self.slot, self.request(Opcode.READDIRPLUS, body))

    def answered(self) -> tuple[int, bytes]:
        """The error and the data of the answer that the kernel got."""
        answer = self.kernel.recv(1 << 20)
        length, error, unique = struct.unpack_from("=IiQ", answer)
        assert (length, unique) == (len(answer), UNIQUE)
        return error, answer[16:]

    def entries(self) -> list[tuple[bytes, int, int]]:
        """Name, node and offset of the next entry, of every entry that the kernel got."""
        error, data = self.answered()
        assert error == 0
        found = []
        while data:
            (node,) = struct.unpack_from("=Q", data)
            _, offset, length, _ = struct.unpack_from("=QQII", data, FOUND)
            found.append((data[FOUND + 24 :][:length], node, offset))
            data = data[FOUND + 24 + length + -length % 8 :]
        return found


@pytest.fixture
def libfuse() -> Iterator[Libfuse]:
    libfuse = Libfuse()
    yield libfuse
    libfuse.close()


def test_each_name_is_listed_with_the_reply_of_its_lookup(libfuse: Libfuse) -> None:
    libfuse.read_directory()
    assert libfuse.entries() == [
        (b".", 0, 1), (b"..", 0, 2), (b"plain", 11, 3), (b"unknown", 0, 4), (b"last", 12, 5)
    ]  # fmt: skip
    assert libfuse.listing == [True] * 3, "the server gets no request"
    assert libfuse.forgotten == []


def test_a_listing_has_no_size_other_than_the_kernels(libfuse: Libfuse) -> None:
    """vfs/semantics.md 1, TTL: it drops what came while the listing was made, and would read a new version to the old end."""
    libfuse.sizes.note_sent(11, 99, 0)
    libfuse.read_directory()
    assert [node for _, node, _ in libfuse.entries()] == [0, 0, 0, 0, 12]
    assert libfuse.forgotten == [(11, 1)]
    assert (libfuse.sizes.get(11), libfuse.sizes.get(12)) == (99, 100)


def test_entries_that_do_not_fit_the_reply_are_not_looked_up(libfuse: Libfuse) -> None:
    """The kernel continues from the offset of the last entry that it got."""
    libfuse.read_directory(room=3 * (FOUND + 32))
    assert [name for name, *_ in libfuse.entries()] == [b".", b"..", b"plain"]
    assert libfuse.asked == [Opcode.READDIR, Opcode.LOOKUP]


@pytest.mark.parametrize("error", [0, errno.EIO])
def test_the_end_of_a_directory_is_empty_and_an_error_is_passed_on(libfuse: Libfuse, error: int) -> None:
    libfuse.names, libfuse.error = [], error
    libfuse.read_directory()
    assert libfuse.answered() == (-error, b"")


def test_nodes_of_a_reply_that_the_kernel_refuses_are_forgotten(libfuse: Libfuse) -> None:
    """The reply to a killed program is refused: the kernel would never ask libfuse to forget its nodes."""
    read, write = os.pipe()
    os.close(read)  # writes to it fail
    libfuse.plus = ReadDirPlus(write, libfuse.process, libfuse.here, libfuse.sizes)
    libfuse.read_directory()
    os.close(write)
    assert libfuse.forgotten == [(11, 1), (12, 1)]
    assert libfuse.sizes.may_differ(11, libfuse.size)


def test_a_detached_node_is_not_looked_up_again(libfuse: Libfuse) -> None:
    """vfs/semantics.md 3.13: a program that reads another version there stays at it."""
    length = libfuse.request(Opcode.LOOKUP, b"plain\0")
    libfuse.slot.captured_reply, libfuse.slot.request.must_detach_node = struct.pack("=Q", 11), True
    libfuse.plus.detach_node(libfuse.slot, length)
    assert (libfuse.unlinked, libfuse.forgotten) == ([b"plain\0"], [(11, 1)])
    assert not libfuse.slot.request.must_detach_node


def test_a_stat_through_a_closing_handle_uses_another_or_is_repeated(libfuse: Libfuse) -> None:
    """vfs/semantics.md 4: a name is there at every moment, also where its last reader ends while another file takes it."""
    nodes = {3: DIRECTORY, 4: DIRECTORY}
    answers = ReplyFilter(libfuse.device.fileno(), libfuse.here, libfuse.sizes, nodes)
    libfuse.request(Opcode.GETATTR, bytes(16))
    for handle, error in ((3, errno.ENOENT), (4, errno.EBADF), (0, errno.EBADF)):
        libfuse.send(error=error, on=answers)
        assert libfuse.slot.request.retry_handle == handle
        nodes.pop(handle, None)
        libfuse.slot.request.retry_handle, libfuse.slot.flags.value = 0, 1
    assert libfuse.answered() == (-errno.ESTALE, b"")


#: Answers that show a size of 100, and the node that each is about: where the request named one, or where the answer does.
SHOWING = {
    Opcode.LOOKUP: (11, struct.pack("=Q40xQ", 11, 100).ljust(FOUND)),
    Opcode.CREATE: (11, struct.pack("=Q40xQ", 11, 100).ljust(FOUND) + bytes(16)),
    Opcode.GETATTR: (DIRECTORY, struct.pack("=24xQ", 100).ljust(104)),
    Opcode.SETATTR: (DIRECTORY, struct.pack("=24xQ", 100).ljust(104)),
}


@pytest.mark.parametrize("opcode", SHOWING)
def test_every_reply_with_a_size_is_noted(libfuse: Libfuse, opcode: Opcode) -> None:
    """vfs/semantics.md 3.17: which size the kernel has; none if the answer overlaps with another, or does not arrive."""
    node, answer = SHOWING[opcode]
    libfuse.request(opcode, bytes(64))
    libfuse.send(answer, on=libfuse.answers)
    assert libfuse.sizes.get(node) == 100
    libfuse.slot.request.began = libfuse.sizes.logical_clock
    libfuse.sizes.note_sent(node, 50, libfuse.sizes.logical_clock)
    libfuse.send(answer, on=libfuse.answers)
    assert libfuse.sizes.get(node) is None
    libfuse.sizes.note_sent(node, 50, libfuse.sizes.logical_clock)
    libfuse.slot.request.began = libfuse.sizes.logical_clock
    read, write = os.pipe()
    os.close(read)
    refused = ReplyFilter(write, libfuse.here, libfuse.sizes, {})
    libfuse.send(answer, on=refused, result=-errno.EPIPE)
    os.close(write)
    assert libfuse.sizes.get(node) is None


@pytest.mark.parametrize(("flags", "size"), [(os.O_RDWR, 50), (os.O_WRONLY | os.O_TRUNC, 0)])
def test_a_file_truncated_by_open_has_no_kernel_size(libfuse: Libfuse, flags: int, size: int) -> None:
    """vfs/semantics.md 3.17: the kernel sets it to 0 without an answer that says so."""
    libfuse.sizes.note_sent(DIRECTORY, 50, 0)
    libfuse.request(Opcode.OPEN, struct.pack("=II", flags, 0))
    libfuse.send(bytes(16), on=libfuse.answers)
    assert libfuse.sizes.get(DIRECTORY) == size


def test_an_open_that_fails_with_estale_expires_the_attributes(libfuse: Libfuse) -> None:
    """vfs/semantics.md 3.17: an open by /proc/self/fd looks up no name."""
    libfuse.request(Opcode.OPEN, struct.pack("=II", os.O_RDWR, 0))
    libfuse.send(error=errno.ESTALE, on=libfuse.answers)
    assert libfuse.kernel.recv(100) == struct.pack("=IiQQqq", 40, 2, 0, DIRECTORY, -1, 0)
    assert libfuse.answered() == (-errno.ESTALE, b"")
    libfuse.send(error=errno.ENOENT, on=libfuse.answers)
    assert libfuse.answered() == (-errno.ENOENT, b""), "the kernel looks again only once"


@pytest.mark.parametrize("ours", [DO_READDIRPLUS | READDIRPLUS_AUTO, 0])
def test_readdirplus_is_negotiated_where_the_kernel_supports_it(libfuse: Libfuse, ours: int) -> None:
    length = libfuse.request(Opcode.INIT, struct.pack("=IIII", 7, 40, 0, ours | BIG_WRITES) + bytes(48))
    libfuse.plus.reply_to_init(libfuse.slot, length)
    error, data = libfuse.answered()
    assert (error, struct.unpack_from("=IIII", data)) == (0, (7, 19, 131072, ours | BIG_WRITES))


MAX_PAGES = 1 << 22
#: libfuse 2.9's answer to INIT ends with `max_write`.
LIBFUSE, MAX_WRITE = struct.Struct("=IIIIHHI"), 128 << 10


def negotiated(libfuse: Libfuse, offered: int) -> bytes:
    """The kernel gets this answer, without its header, when it offers these flags."""
    length = libfuse.request(Opcode.INIT, struct.pack("=IIII", 7, 40, 0, offered | BIG_WRITES) + bytes(48))
    libfuse.plus.reply_to_init(libfuse.slot, length)
    error, data = libfuse.answered()
    assert error == 0
    return data


def test_a_kernel_that_offers_longer_requests_gets_one_mebibyte(libfuse: Libfuse) -> None:
    """fuse/notes.md, Files: a write of 1 MiB is one request; all else in libfuse's answer stays."""
    answer = negotiated(libfuse, MAX_PAGES)
    assert LIBFUSE.unpack_from(answer) == (7, 19, 131072, MAX_PAGES | BIG_WRITES, 12, 9, 1 << 20)
    time_gran, pages, alignment = struct.unpack("=IHH", answer[LIBFUSE.size :])
    assert (time_gran, pages * mmap.PAGESIZE, alignment) == (0, 1 << 20, 0)


def test_a_kernel_without_the_offer_gets_the_reply_of_libfuse(libfuse: Libfuse) -> None:
    """fuse/notes.md, Files: before Linux 4.20 the longest write is 128 KiB."""
    assert negotiated(libfuse, 0) == LIBFUSE.pack(7, 19, 131072, BIG_WRITES, 12, 9, MAX_WRITE)


def test_an_init_reply_without_flags_is_passed_on(libfuse: Libfuse) -> None:
    """libfuse refuses a kernel that is too old, or asks it to try again with its own version."""
    libfuse.error = errno.EPROTO
    length = libfuse.request(Opcode.INIT, struct.pack("=IIII", 7, 40, 0, MAX_PAGES) + bytes(48))
    libfuse.plus.reply_to_init(libfuse.slot, length)
    assert libfuse.answered() == (-errno.EPROTO, b"")
