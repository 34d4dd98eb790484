"""What libfuse's answers lack, by fuse/notes.md: that the kernel is to look again, that nodes part, and listings with attributes.

**Look again.** Where a rename has put another file at a node between look-up and use, the kernel gets ESTALE in place of ENOENT,
and looks the name up again. If it asks about the same node once more, it gets ENOENT: `rm -rf` expects that of a removed
directory.
**Nodes part.** Where another version is being read at the node of a path, the path gets another node: libfuse is told of an
unlink that never happened. Where a program writes to the file, there is one node, whose attributes the kernel keeps for no time.
**Nodes without a name**, parted or unlinked: `fstat` names no handle, so it is repeated with a handle that is open at the node.
**Listings.** libfuse is asked for the listing and for the names in it as if the kernel had asked. Its answers are caught here,
and sent as one. The server is asked nothing for that: a name whose attributes are not known goes without them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator

from jobfs.fuse.interrupt import ANSWER, HEADER_END, CurrentSlot, Opcode, Request, WorkerSlot
from jobfs.fuse.sizes import KernelSizes
from jobfs.vfs import CHANGES

#: Requests about a node that the kernel found by a name; after ESTALE it looks up the name and asks again.
_ABOUT_A_NODE = frozenset({Opcode.OPEN, Opcode.GETATTR})
#: Most threads for which the node is remembered that they were told to look up again.
_TOLD = 1000
#: Requests whose answers are looked at here.
ANSWERED_HERE = _ABOUT_A_NODE | {Opcode.LOOKUP, Opcode.SETATTR, Opcode.CREATE}
#: `FUSE_NOTIFY_INVAL_INODE`, in the place of an answer's error; and its node, offset and length, -1: the attributes alone.
_INVALIDATE_INODE, _EXPIRED = 2, struct.Struct("=Qqq")
#: A flag of the kernel since 5.16; an older one asks as before.
_NO_FLUSH = 1 << 5

_pointer = ctypes.c_void_p
_send_prototype = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_size_t)
# PyDLL keeps the interpreter's lock: the write of an answer waits for nothing, and to get the lock back may take longer.
_libc = ctypes.PyDLL(None, use_errno=True)
_writev = _libc.writev
_writev.argtypes = (ctypes.c_int, _pointer, ctypes.c_int)
_writev.restype = ctypes.c_ssize_t
write = _libc.write
write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
write.restype = ctypes.c_ssize_t

#: Bytes of `struct iovec`, a piece of an answer: where it is, and its length.
_PIECE = 2 * ctypes.sizeof(ctypes.c_size_t)
#: Where an answer has its error, in `fuse_out_header`; and the flags of an opened file, in `fuse_open_out`.
_ERROR, _OPEN_FLAGS = 4, 8
#: Bytes of `fuse_attr_out`.
_ATTR = 104
#: Where an answer says for how many seconds and nanoseconds attributes are good: in `fuse_attr_out`, and in `fuse_entry_out`.
_VALID = {Opcode.GETATTR: (0, 8), Opcode.SETATTR: (0, 8), Opcode.LOOKUP: (24, 36)}
#: Where both have the size: `fuse_attr` comes after those times, and has it after the inode number.
SIZE = {Opcode.GETATTR: 24, Opcode.SETATTR: 24, Opcode.LOOKUP: 48, Opcode.CREATE: 48}

#: Flags of INIT: the kernel knows such listings, and asks for them only where a program wants attributes; and a reply may set
#: the number of pages that one request carries at most, 32 without it (FUSE_MAX_PAGES, since Linux 4.20).
_LISTINGS, _MAX_PAGES = 1 << 13 | 1 << 14, 1 << 22
#: Where they are: in `fuse_init_in` after the header of the request, and in `fuse_init_out` after that of the answer.
_IN_REQUEST, _IN_ANSWER = struct.Struct("=52xI"), struct.Struct("=28xI")
#: The longest write in bytes where the kernel offers _MAX_PAGES, and the buffer that holds such a request with its headers.
MAX_WRITE = 1 << 20
REQUEST_SIZE = MAX_WRITE + 4096
#: Where the answer has `max_write`; and how long it is with all fields up to `max_pages`, of which libfuse knows no more than
#: that one. Between the two is `time_gran`.
_MAX_WRITE_AT, _WITH_PAGES = 36, 48
#: `fuse_read_in` after the header: how many bytes the kernel takes.
_ROOM = struct.Struct("=56xI")
#: `fuse_in_header`: its length and opcode, which differ from request to request; and where it has the node.
_LENGTH_AND_OPCODE, _NODE = struct.Struct("=II"), slice(16, 24)
_NUMBER = struct.Struct("=Q")
#: `fuse_dirent` without the name: inode number, offset of the next one, length of the name, type.
_ENTRY = struct.Struct("=QQII")
#: Bytes of `fuse_entry_out`, which begins with the node; zeros: without attributes.
_FOUND = 128
_WITHOUT = bytes(_FOUND)


class ChannelOperations(ctypes.Structure):
    """`struct fuse_chan_ops` of libfuse 2.9, for a channel on which only answers are sent."""

    _fields_ = (("receive", _pointer), ("send", _send_prototype), ("destroy", _pointer))


class ReplyFilter:
    """Sends libfuse's answers to the kernel, by `operations` of a channel.

    The kernel need not tell the close of a file that is opened to be read: nothing has to be sent. `nodes` has the node of each
    open file, by the number of its handle.
    """

    def __init__(self, device: int, current: CurrentSlot, sizes: KernelSizes, nodes: dict[int, int]) -> None:
        self.operations = ChannelOperations(send=_send_prototype(self._send))
        self._device, self._current, self._sizes, self._nodes = device, current, sizes, nodes
        self._stale_replies: dict[int, int] = {}  # the node, by the thread that is to look it up again

    def _send(self, channel: int, vector: int, count: int) -> int:
        slot = self._current.slot
        request, node = slot.request, slot.request.node
        if count > 1 and request.detaching:
            slot.answer = ctypes.string_at(_body(vector), _NUMBER.size)
            return 0
        if count > 1:
            node = self._complete_reply(slot, request, _body(vector))
        elif request.opcode in _ABOUT_A_NODE:
            error = ctypes.c_int32.from_address(ctypes.c_size_t.from_address(vector).value + _ERROR)
            if self._is_repeated(slot, request, error):
                return 0
        if _writev(self._device, vector, count) < 0:
            # The program was told to end, which libfuse has to know; or the mount is over.
            error_number = ctypes.get_errno()
            self._sizes.forget(node)
            return -error_number
        return 0

    def _is_repeated(self, slot: WorkerSlot, request: Request, error: ctypes.c_int32) -> bool:
        """Change an error so that the kernel looks again; return whether a getattr has to be repeated with a handle instead."""
        opcode, node = request.opcode, request.node
        if opcode == Opcode.OPEN and error.value == -errno.ESTALE:
            self.expire_attributes(node)  # by `/proc/self/fd` it looks up no name
            self._reply_stale(slot.thread, node, error)
        # EBADF: the handle that was found for a getattr has been closed since.
        if error.value not in (-errno.ENOENT, -errno.EBADF):
            return False
        if opcode == Opcode.GETATTR and (not slot.flags.value or error.value == -errno.EBADF):
            request.handle = next((number for number, at in [*self._nodes.items()] if at == node), 0)
        if not request.handle:
            self._reply_stale(slot.thread, node, error)
        return bool(request.handle)

    def expire_attributes(self, node: int) -> None:
        """Have the kernel ask for the attributes of a node before it uses them again; waits for nothing."""
        body = _EXPIRED.pack(node, -1, 0)
        message = ANSWER.pack(ANSWER.size + len(body), _INVALIDATE_INODE, 0) + body
        write(self._device, message, len(message))

    def _reply_stale(self, thread: int, node: int, error: ctypes.c_int32) -> None:
        if self._stale_replies.pop(thread, None) != node:
            error.value = -errno.ESTALE
            if len(self._stale_replies) > _TOLD:
                self._stale_replies.clear()
            self._stale_replies[thread] = node

    def _complete_reply(self, slot: WorkerSlot, request: Request, answer: int) -> int:
        """Complete an answer, and note what the kernel learns by it; return the node that it is about."""
        opcode, node, number = request.opcode, request.node, ctypes.c_uint64.from_address
        if opcode == Opcode.OPEN:
            self._complete_open(slot, request, answer)
            return node
        node = number(answer).value if opcode in (Opcode.LOOKUP, Opcode.CREATE) else node
        self._sizes.note_sent(node, number(answer + SIZE[Opcode(opcode)]).value, request.began)
        if opcode == Opcode.CREATE:
            self._nodes[number(answer + _FOUND).value] = node
        elif request.uncached_attr:
            seconds, nanoseconds = _VALID[Opcode(opcode)]
            ctypes.memset(answer + seconds, 0, 8)
            ctypes.memset(answer + nanoseconds, 0, 4)
        elif request.attr_cache is not None and opcode == Opcode.GETATTR:
            request.attr_cache[node] = ctypes.string_at(answer, _ATTR)
        return node

    def _complete_open(self, slot: WorkerSlot, request: Request, answer: int) -> None:
        self._nodes[ctypes.c_uint64.from_address(answer).value] = request.node
        if self._stale_replies:
            self._stale_replies.pop(slot.thread, None)  # it has looked again
        flags = slot.flags.value
        if not flags & CHANGES:
            ctypes.c_uint32.from_address(answer + _OPEN_FLAGS).value |= _NO_FLUSH
        if flags & os.O_TRUNC:
            self._sizes.note_sent(request.node, 0, request.began)


def size_in_reply(attributes: bytes) -> int:
    """Return the size that a `fuse_attr_out` shows."""
    return int(_NUMBER.unpack_from(attributes, SIZE[Opcode.GETATTR])[0])


def _body(vector: int) -> int:
    """Where the second piece of an answer is, behind its header."""
    return ctypes.c_size_t.from_address(vector + _PIECE).value


def _iovec_pieces(vector: int, count: int) -> list[tuple[int, int]]:
    """Where the pieces of an answer are, and their lengths in bytes: an array of `struct iovec`."""
    words = (ctypes.c_size_t * (2 * count)).from_address(vector)
    return list(zip(words[::2], words[1::2], strict=True))


class ReadDirPlus:
    """Asks libfuse, and answers the kernel.

    `process` has libfuse carry out the request of so many bytes at an address, and answer on a channel with `operations`.
    `current`: the slot of the thread that asks.
    """

    def __init__(
        self, device: int, process: Callable[[int, int], None], current: CurrentSlot, sizes: KernelSizes
    ) -> None:
        self.operations = ChannelOperations(send=_send_prototype(self._capture_reply))
        self._device, self._process, self._current, self._sizes = device, process, current, sizes

    def negotiate(self, slot: WorkerSlot, length: int) -> None:
        """Answer INIT, the kernel's first request: as libfuse does, and with the features that libfuse does not know of."""
        request = ctypes.string_at(slot.address, length)
        answer = self.ask_libfuse(Opcode.INIT, request[_LENGTH_AND_OPCODE.size :])
        if len(answer) >= _IN_ANSWER.size:
            (offered,) = _IN_REQUEST.unpack_from(request)
            answer = _extend_init(answer, offered)
        write(self._device, answer, len(answer))

    def detach_node(self, slot: WorkerSlot, length: int) -> None:
        """Take the node that a look-up has found, and that the kernel was not told of, off its path: it is found no more."""
        request, found = ctypes.string_at(slot.address, length), slot.answer
        self.ask_libfuse(Opcode.UNLINK, request[_LENGTH_AND_OPCODE.size :])
        self._forget(request, found)
        slot.request.detaching = False

    def _forget(self, request: bytes, node: bytes) -> None:
        """Have libfuse forget the look-up of a node that the kernel has not heard of."""
        before, after = request[_LENGTH_AND_OPCODE.size : _NODE.start], request[_NODE.stop : HEADER_END]
        self.ask_libfuse(Opcode.FORGET, before + node + after + _NUMBER.pack(1))

    def reply_to_listing(self, slot: WorkerSlot, length: int) -> None:
        """Answer READDIRPLUS: with the names that there is room for."""
        request = ctypes.string_at(slot.address, length)
        listing = self.ask_libfuse(Opcode.READDIR, request[_LENGTH_AND_OPCODE.size :])
        if slot.answered == slot.sequence:
            return  # nobody waits, and the kernel may forget the directory any moment: libfuse must not look in it
        _, error, unique = ANSWER.unpack_from(listing)
        (room,) = _ROOM.unpack_from(request)
        parts = self._plus_entries(request, listing, room)
        answer = b"".join((ANSWER.pack(ANSWER.size + sum(map(len, parts)), error, unique), *parts))
        if write(self._device, answer, len(answer)) < 0:
            # The program was told to end: the kernel has heard of none of these nodes.
            for found in parts[::2]:
                if any(node := found[: _NUMBER.size]):
                    self._sizes.forget(*_NUMBER.unpack(node))
                    self._forget(request, node)

    def _plus_entries(self, request: bytes, listing: bytes, room: int) -> list[bytes]:
        """What is known of each name in a listing, and its entry in there, as far as there is room."""
        parts: list[bytes] = []
        for name, entry in _parse_entries(listing):
            room -= _FOUND + len(entry)
            if room < 0:
                break
            parts += self._lookup_entry(request, name), entry
        return parts

    def _lookup_entry(self, request: bytes, name: bytes) -> bytes:
        """What the kernel would hear of a name in the directory that a request is about.

        Never another size than the kernel has heard last: it silently drops what a listing says if it has heard another since.
        """
        if name in (b".", b".."):
            return _WITHOUT
        header = request[_LENGTH_AND_OPCODE.size : HEADER_END]
        found = self.ask_libfuse(Opcode.LOOKUP, header + name + b"\0")[ANSWER.size :]
        if not found:
            return _WITHOUT
        (node,), (size,) = _NUMBER.unpack_from(found), _NUMBER.unpack_from(found, SIZE[Opcode.LOOKUP])
        if self._sizes.may_differ(node, size):
            self._forget(request, found[: _NUMBER.size])
            return _WITHOUT
        self._sizes.note_sent(node, size, self._current.slot.request.began)
        return found

    def ask_libfuse(self, opcode: Opcode, rest: bytes) -> bytes:
        """libfuse's answer to a request, of which `rest` follows the length and the opcode."""
        message = _LENGTH_AND_OPCODE.pack(_LENGTH_AND_OPCODE.size + len(rest), opcode) + rest
        request = ctypes.create_string_buffer(message, len(message))
        self._process(ctypes.addressof(request), len(message))
        return self._current.slot.answer

    def _capture_reply(self, channel: int, vector: int | None, count: int) -> int:
        # FORGET has no answer.
        pieces = _iovec_pieces(vector, count) if vector else []
        self._current.slot.answer = b"".join(ctypes.string_at(*piece) for piece in pieces)
        return 0


def _extend_init(answer: bytes, offered: int) -> bytes:
    """Add to libfuse's answer to INIT what the kernel offers and libfuse lacks; `offered`: the kernel's flags.

    A kernel whose own limit of pages is lower (`fs.fuse.max_pages_limit`) sends shorter requests by itself.
    """
    (accepted,) = _IN_ANSWER.unpack_from(answer)
    longer = bytearray(answer)
    if offered & _MAX_PAGES:
        longer = longer.ljust(_WITH_PAGES, b"\0")
        struct.pack_into("=I", longer, 0, len(longer))
        struct.pack_into("=I4xH", longer, _MAX_WRITE_AT, MAX_WRITE, MAX_WRITE // mmap.PAGESIZE)
    struct.pack_into("=I", longer, _IN_ANSWER.size - 4, accepted | offered & (_LISTINGS | _MAX_PAGES))
    return bytes(longer)


def _parse_entries(listing: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names in an answer to READDIR, each with its whole entry."""
    start = ANSWER.size
    while start < len(listing):
        _, _, length, _ = _ENTRY.unpack_from(listing, start)
        name = start + _ENTRY.size
        end = name + -(-length // 8) * 8
        yield listing[name : name + length], listing[start:end]
        start = end
