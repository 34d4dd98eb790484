"""What libfuse's replies lack (fuse/notes.md): errors that make the kernel look up again, detached nodes, and READDIRPLUS.

**Stale nodes.** Where a rename has put another file at a node between look-up and use, the kernel gets ESTALE instead of ENOENT,
and looks the name up again. If it then asks about the same node once more, it gets ENOENT: `rm -rf` expects that of a removed
directory.

**Detached nodes.** Where programs still read, at a path's node, a version that the path no longer shows, the next lookup gives
the path a new node: libfuse gets an UNLINK that the kernel never sent. Where a program writes to the file, the path keeps its
node, and the kernel caches no attributes.

**Nodes without a name**, detached or unlinked: `fstat` names no handle, so the request is repeated with a handle that is open at
the node.

**READDIRPLUS.** libfuse gets READDIR, then a LOOKUP of each name, as if the kernel had sent them. Their replies are captured here
and sent as one. None of them makes a request to the server: a name whose attributes are not known is sent without attributes.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Callable, Iterator

from jobfs.fuse.requests import HEADER_END, REPLY_HEADER, CurrentSlot, Opcode, Request, WorkerSlot
from jobfs.fuse.sizes import KernelSizes
from jobfs.vfs import CHANGES

#: Requests about a node that the kernel found by a name; after ESTALE it looks up the name and repeats the request.
_ABOUT_A_NODE = frozenset({Opcode.OPEN, Opcode.GETATTR})
#: The maximum number of threads whose last ESTALE is remembered.
_MAX_STALE_REPLIES = 1000
#: Requests whose replies pass through `ReplyFilter`.
COMPLETED_OPCODES = _ABOUT_A_NODE | {Opcode.LOOKUP, Opcode.SETATTR, Opcode.CREATE}
#: `FUSE_NOTIFY_INVAL_INODE`, in the place of a reply's error; and its body: node, offset (-1: attributes only), length.
_INVALIDATE_INODE, _EXPIRED = 2, struct.Struct("=Qqq")
#: FOPEN_NOFLUSH, since Linux 5.16; an older kernel ignores it and sends FLUSH.
_NO_FLUSH = 1 << 5

_pointer = ctypes.c_void_p
_send_prototype = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_size_t)
# PyDLL keeps the GIL: writing a reply never blocks, and acquiring the GIL again may take longer than the write.
_libc = ctypes.PyDLL(None, use_errno=True)
_writev = _libc.writev
_writev.argtypes = (ctypes.c_int, _pointer, ctypes.c_int)
_writev.restype = ctypes.c_ssize_t
write = _libc.write
write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
write.restype = ctypes.c_ssize_t

#: Bytes of `struct iovec`, a piece of a reply: its address and its length.
_PIECE = 2 * ctypes.sizeof(ctypes.c_size_t)
#: Offset of the error in `fuse_out_header`, and of the flags in `fuse_open_out`.
_ERROR, _OPEN_FLAGS = 4, 8
#: Bytes of `fuse_attr_out`.
_ATTR = 104
#: Offsets of the seconds and nanoseconds for which attributes are valid: in `fuse_attr_out`, and in `fuse_entry_out`.
_VALID = {Opcode.GETATTR: (0, 8), Opcode.SETATTR: (0, 8), Opcode.LOOKUP: (24, 36)}
#: Offset of the size in both: `fuse_attr` follows those times, and begins with the inode number.
SIZE = {Opcode.GETATTR: 24, Opcode.SETATTR: 24, Opcode.LOOKUP: 48, Opcode.CREATE: 48}

#: Flags of INIT. The kernel sends READDIRPLUS, and only where a program wants attributes (FUSE_DO_READDIRPLUS,
#: FUSE_READDIRPLUS_AUTO); and the reply may set the maximum number of pages of a request, which is 32 otherwise (FUSE_MAX_PAGES,
#: since Linux 4.20).
_LISTINGS, _MAX_PAGES = 1 << 13 | 1 << 14, 1 << 22
#: Where the flags are: in `fuse_init_in` after the request's header, and in `fuse_init_out` after the reply's header.
_IN_INIT_REQUEST, _IN_INIT_REPLY = struct.Struct("=52xI"), struct.Struct("=28xI")
#: The longest write in bytes where the kernel offers _MAX_PAGES, and the buffer that holds such a request with its headers.
MAX_WRITE = 1 << 20
REQUEST_SIZE = MAX_WRITE + 4096
#: Offset of `max_write` in the reply, and the reply's length with all fields up to `max_pages`. libfuse knows no field after
#: `max_write`; `time_gran`, between the two, stays 0.
_MAX_WRITE_AT, _WITH_PAGES = 36, 48
#: `fuse_read_in` after the header: how many bytes the kernel accepts.
_ROOM = struct.Struct("=56xI")
#: `fuse_in_header`: its length and opcode, which derived requests replace; and the place of the node.
_LENGTH_AND_OPCODE, _NODE = struct.Struct("=II"), slice(16, 24)
_NUMBER = struct.Struct("=Q")
#: `fuse_dirent` without the name: inode number, offset of the next entry, length of the name, type.
_ENTRY = struct.Struct("=QQII")
#: Bytes of `fuse_entry_out`, which begins with the node. All zeros: an entry without attributes.
_FOUND = 128
_WITHOUT = bytes(_FOUND)


class ChannelOperations(ctypes.Structure):
    """`struct fuse_chan_ops` of libfuse 2.9, for a channel that only sends replies."""

    _fields_ = (("receive", _pointer), ("send", _send_prototype), ("destroy", _pointer))


class ReplyFilter:
    """Completes libfuse's replies and sends them to the kernel, as the `operations` of a channel.

    The kernel need not send FLUSH for a file that is opened for reading: closing it saves nothing. `nodes` maps the handle of
    each open file to its node.
    """

    def __init__(self, device: int, current: CurrentSlot, sizes: KernelSizes, nodes: dict[int, int]) -> None:
        self.operations = ChannelOperations(send=_send_prototype(self._send))
        self._device, self._current, self._sizes, self._nodes = device, current, sizes, nodes
        self._stale_replies: dict[int, int] = {}  # by thread: the node for which it got ESTALE

    def _send(self, channel: int, vector: int, count: int) -> int:
        slot = self._current.slot
        request, node = slot.request, slot.request.node
        if count > 1 and request.must_detach_node:
            slot.captured_reply = ctypes.string_at(_body_address(vector), _NUMBER.size)
            return 0
        if count > 1:
            node = self._patch_reply(slot, request, _body_address(vector))
        elif request.opcode in _ABOUT_A_NODE:
            error = ctypes.c_int32.from_address(ctypes.c_size_t.from_address(vector).value + _ERROR)
            if self._replace_error_or_repeat(slot, request, error):
                return 0
        if _writev(self._device, vector, count) < 0:
            # The program got EINTR, which libfuse must know; or the mount has ended.
            error_number = ctypes.get_errno()
            self._sizes.forget(node)
            return -error_number
        return 0

    def _replace_error_or_repeat(self, slot: WorkerSlot, request: Request, error: ctypes.c_int32) -> bool:
        """Replace an error that must make the kernel look up again; return whether to repeat a getattr with a handle instead."""
        opcode, node = request.opcode, request.node
        if opcode == Opcode.OPEN and error.value == -errno.ESTALE:
            self.expire_attributes(node)  # an open by `/proc/self/fd` looks up no name
            self._set_stale_once(slot.thread, node, error)
        # EBADF: the handle with which a getattr was repeated has been closed since.
        if error.value not in (-errno.ENOENT, -errno.EBADF):
            return False
        if opcode == Opcode.GETATTR and (not slot.flags.value or error.value == -errno.EBADF):
            request.retry_handle = next((number for number, at in [*self._nodes.items()] if at == node), 0)
        if not request.retry_handle:
            self._set_stale_once(slot.thread, node, error)
        return bool(request.retry_handle)

    def expire_attributes(self, node: int) -> None:
        """Make the kernel ask for the attributes of a node before it uses them again. Never blocks."""
        body = _EXPIRED.pack(node, -1, 0)
        message = REPLY_HEADER.pack(REPLY_HEADER.size + len(body), _INVALIDATE_INODE, 0) + body
        write(self._device, message, len(message))

    def _set_stale_once(self, thread: int, node: int, error: ctypes.c_int32) -> None:
        if self._stale_replies.pop(thread, None) != node:
            error.value = -errno.ESTALE
            if len(self._stale_replies) > _MAX_STALE_REPLIES:
                self._stale_replies.clear()
            self._stale_replies[thread] = node

    def _patch_reply(self, slot: WorkerSlot, request: Request, address: int) -> int:
        """Fill in the reply at `address`, and note the size that the kernel learns from it; return the node that it describes."""
        opcode, node, number = request.opcode, request.node, ctypes.c_uint64.from_address
        if opcode == Opcode.OPEN:
            self._complete_open(slot, request, address)
            return node
        node = number(address).value if opcode in (Opcode.LOOKUP, Opcode.CREATE) else node
        self._sizes.note_sent(node, number(address + SIZE[Opcode(opcode)]).value, request.began)
        if opcode == Opcode.CREATE:
            self._nodes[number(address + _FOUND).value] = node
        elif request.is_attr_uncached:
            seconds, nanoseconds = _VALID[Opcode(opcode)]
            ctypes.memset(address + seconds, 0, 8)
            ctypes.memset(address + nanoseconds, 0, 4)
        elif request.attr_cache is not None and opcode == Opcode.GETATTR:
            request.attr_cache[node] = ctypes.string_at(address, _ATTR)
        return node

    def _complete_open(self, slot: WorkerSlot, request: Request, reply: int) -> None:
        self._nodes[ctypes.c_uint64.from_address(reply).value] = request.node
        if self._stale_replies:
            self._stale_replies.pop(slot.thread, None)  # it has looked up again
        flags = slot.flags.value
        if not flags & CHANGES:
            ctypes.c_uint32.from_address(reply + _OPEN_FLAGS).value |= _NO_FLUSH
        if flags & os.O_TRUNC:
            self._sizes.note_sent(request.node, 0, request.began)


def size_in_reply(attributes: bytes) -> int:
    """Return the size in a `fuse_attr_out`."""
    return int(_NUMBER.unpack_from(attributes, SIZE[Opcode.GETATTR])[0])


def _body_address(vector: int) -> int:
    """Return the address of a reply's second piece, which follows its header."""
    return ctypes.c_size_t.from_address(vector + _PIECE).value


def _iovec_pieces(vector: int, count: int) -> list[tuple[int, int]]:
    """Return the address and the length in bytes of each piece of a reply: an array of `struct iovec`."""
    words = (ctypes.c_size_t * (2 * count)).from_address(vector)
    return list(zip(words[::2], words[1::2], strict=True))


class ReadDirPlus:
    """Replies to READDIRPLUS and INIT, for which this process sends requests of its own to libfuse.

    `process` makes libfuse carry out the request of a given length at an address, and reply on a channel with `operations`.
    `current` holds the slot of the calling thread.
    """

    def __init__(
        self, device: int, process: Callable[[int, int], None], current: CurrentSlot, sizes: KernelSizes
    ) -> None:
        self.operations = ChannelOperations(send=_send_prototype(self._capture_reply))
        self._device, self._process, self._current, self._sizes = device, process, current, sizes

    def reply_to_init(self, slot: WorkerSlot, length: int) -> None:
        """Reply to INIT, the kernel's first request: as libfuse does, with the features added that libfuse does not know."""
        request = ctypes.string_at(slot.address, length)
        reply = self.ask_libfuse(Opcode.INIT, request[_LENGTH_AND_OPCODE.size :])
        if len(reply) >= _IN_INIT_REPLY.size:
            (offered,) = _IN_INIT_REQUEST.unpack_from(request)
            reply = _extend_init_reply(reply, offered)
        write(self._device, reply, len(reply))

    def detach_node(self, slot: WorkerSlot, length: int) -> None:
        """Remove the node that a LOOKUP has found from its path, so that no later LOOKUP finds it.

        The kernel has not received that LOOKUP's reply.
        """
        request, found = ctypes.string_at(slot.address, length), slot.captured_reply
        self.ask_libfuse(Opcode.UNLINK, request[_LENGTH_AND_OPCODE.size :])
        self._forget(request, found)
        slot.request.must_detach_node = False

    def _forget(self, request: bytes, node: bytes) -> None:
        """Make libfuse forget a LOOKUP of a node whose reply the kernel has not received."""
        before, after = request[_LENGTH_AND_OPCODE.size : _NODE.start], request[_NODE.stop : HEADER_END]
        self.ask_libfuse(Opcode.FORGET, before + node + after + _NUMBER.pack(1))

    def reply_to_listing(self, slot: WorkerSlot, length: int) -> None:
        """Reply to READDIRPLUS with as many entries as there is room for."""
        request = ctypes.string_at(slot.address, length)
        listing = self.ask_libfuse(Opcode.READDIR, request[_LENGTH_AND_OPCODE.size :])
        if slot.interrupted_sequence == slot.sequence:
            return  # EINTR was sent; the kernel may forget the directory at any moment, so libfuse must not look in it
        _, error, unique = REPLY_HEADER.unpack_from(listing)
        (room,) = _ROOM.unpack_from(request)
        parts = self._make_plus_entries(request, listing, room)
        reply = b"".join((REPLY_HEADER.pack(REPLY_HEADER.size + sum(map(len, parts)), error, unique), *parts))
        if write(self._device, reply, len(reply)) < 0:
            # The program got EINTR: the kernel has received none of these nodes.
            for found in parts[::2]:
                if any(node := found[: _NUMBER.size]):
                    self._sizes.forget(*_NUMBER.unpack(node))
                    self._forget(request, node)

    def _make_plus_entries(self, request: bytes, listing: bytes, room: int) -> list[bytes]:
        """Return what is known of each listed name, followed by its listing entry, while there is room."""
        parts: list[bytes] = []
        for name, entry in _parse_entries(listing):
            room -= _FOUND + len(entry)
            if room < 0:
                break
            parts += self._lookup_entry(request, name), entry
        return parts

    def _lookup_entry(self, request: bytes, name: bytes) -> bytes:
        """Return the `fuse_entry_out` of a name in the directory of a request; zeros if its attributes must be left out.

        They are left out if the kernel may have another size: it silently drops the attributes of a listing if it has applied
        others since its request.
        """
        if name in (b".", b".."):
            return _WITHOUT
        header = request[_LENGTH_AND_OPCODE.size : HEADER_END]
        found = self.ask_libfuse(Opcode.LOOKUP, header + name + b"\0")[REPLY_HEADER.size :]
        if not found:
            return _WITHOUT
        (node,), (size,) = _NUMBER.unpack_from(found), _NUMBER.unpack_from(found, SIZE[Opcode.LOOKUP])
        if self._sizes.may_differ(node, size):
            self._forget(request, found[: _NUMBER.size])
            return _WITHOUT
        self._sizes.note_sent(node, size, self._current.slot.request.began)
        return found

    def ask_libfuse(self, opcode: Opcode, rest: bytes) -> bytes:
        """Return libfuse's reply to a request; `rest` is the request after its length and opcode."""
        message = _LENGTH_AND_OPCODE.pack(_LENGTH_AND_OPCODE.size + len(rest), opcode) + rest
        request = ctypes.create_string_buffer(message, len(message))
        self._process(ctypes.addressof(request), len(message))
        return self._current.slot.captured_reply

    def _capture_reply(self, channel: int, vector: int | None, count: int) -> int:
        # FORGET has no reply.
        pieces = _iovec_pieces(vector, count) if vector else []
        self._current.slot.captured_reply = b"".join(ctypes.string_at(*piece) for piece in pieces)
        return 0


def _extend_init_reply(reply: bytes, offered: int) -> bytes:
    """Add what the kernel offers and libfuse lacks to libfuse's reply to INIT; `offered`: the kernel's flags.

    A kernel with a lower limit of pages (`fs.fuse.max_pages_limit`) sends shorter requests by itself.
    """
    (accepted,) = _IN_INIT_REPLY.unpack_from(reply)
    longer = bytearray(reply)
    if offered & _MAX_PAGES:
        longer = longer.ljust(_WITH_PAGES, b"\0")
        struct.pack_into("=I", longer, 0, len(longer))
        struct.pack_into("=I4xH", longer, _MAX_WRITE_AT, MAX_WRITE, MAX_WRITE // mmap.PAGESIZE)
    struct.pack_into("=I", longer, _IN_INIT_REPLY.size - 4, accepted | offered & (_LISTINGS | _MAX_PAGES))
    return bytes(longer)


def _parse_entries(listing: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each name in a reply to READDIR, with its whole entry."""
    start = REPLY_HEADER.size
    while start < len(listing):
        _, _, length, _ = _ENTRY.unpack_from(listing, start)
        name = start + _ENTRY.size
        end = name + -(-length // 8) * 8
        yield listing[name : name + length], listing[start:end]
        start = end
