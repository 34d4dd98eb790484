"""The kernel's side of a session: its requests to the real libfuse, over a socket instead of a mount."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import fuse

from jobfs.fuse import loop
from jobfs.fuse.replies import ChannelOperations, _send_prototype
from jobfs.fuse.requests import Opcode

#: Opcodes that only the tests name.
READLINK, SYMLINK, WRITE, STATFS, OPENDIR, LINK, MKNOD, FSYNCDIR = 5, 6, 16, 17, 27, 13, 8, 30
ROOT, UID, GID = 1, 1000, 1001
#: `FOPEN_...`, in the reply to an open: the kernel keeps no pages; it keeps those of the last open; it sends no FLUSH.
DIRECT_IO, KEEP_CACHE, NO_FLUSH = 1 << 0, 1 << 1, 1 << 5
#: The thread that makes the requests, unless a test names another one.
THREAD = 4711
#: Seconds within which a reply comes; a test whose reply does not come fails.
PATIENCE = 20.0
#: Bytes of `fuse_entry_out`, up to and with the attributes.
ENTRY = 128
MEGABYTE = 1 << 20

_pointer, _int, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_HEADER, _REPLY = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")


class Attributes(NamedTuple):
    """`fuse_attr`, as far as the tests look at it; `valid`: seconds for which the kernel may keep it."""

    valid: float
    ino: int
    size: int
    mtime: int
    mode: int
    uid: int
    gid: int


class Entry(NamedTuple):
    """A name that the kernel has looked up."""

    node: int
    attributes: Attributes


def _unpack_attributes(valid: float, data: bytes) -> Attributes:
    ino, size, _, _, mtime, _, _, fraction, _, mode, _, uid, gid = struct.unpack_from("=6Q7I", data)
    return Attributes(valid, ino, size, mtime * 10**9 + fraction, mode, uid, gid)


def _unpack_reply(data: bytes) -> Attributes:
    """The attributes in a reply to GETATTR or SETATTR."""
    seconds, nanoseconds = struct.unpack_from("=QI", data)
    return _unpack_attributes(seconds + nanoseconds / 1e9, data[16:])


def _unpack_entry(data: bytes) -> Entry:
    node, _, _, seconds, _, nanoseconds = struct.unpack_from("=4Q2I", data)
    return Entry(node, _unpack_attributes(seconds + nanoseconds / 1e9, data[40:]))


@dataclass
class Opened:
    """A file that a program has open."""

    node: int
    handle: int
    flags: int
    #: What the reply says about the kernel's pages, `FOPEN_...`.
    reply_flags: int


class Kernel:
    """Sends requests, and returns the replies: each method is one request, named for its opcode; OSError is its error.

    `send` and `receive` are for requests in flight at the same time. `notified`: the nodes whose attributes were made to expire.
    """

    def __init__(self, device: socket.socket) -> None:
        device.settimeout(PATIENCE)
        self._device = device
        self._unique = itertools.count(2, 2)
        self._replies: dict[int, tuple[int, bytes]] = {}
        self.notified: list[int] = []

    def send(self, opcode: int, body: bytes = b"", node: int = ROOT, thread: int = THREAD) -> int:
        """Send a request; return its number."""
        unique = next(self._unique)
        head = _HEADER.pack(_HEADER.size + len(body), opcode, unique, node, UID, GID, thread, 0)
        self._device.send(head + body)
        return unique

    def receive(self, unique: int) -> bytes:
        """Return the reply to a request. Raises OSError with its error."""
        while unique not in self._replies:
            message = self._device.recv(2 * MEGABYTE)
            length, error, number = _REPLY.unpack_from(message)
            assert length == len(message)
            if number:
                self._replies[number] = -error, message[_REPLY.size :]
            else:
                assert error == 2, "FUSE_NOTIFY_INVAL_INODE"
                self.notified.append(struct.unpack_from("=Q", message, _REPLY.size)[0])
        number, body = self._replies.pop(unique)
        if number:
            raise OSError(number, os.strerror(number))
        return body

    def has_message(self) -> bool:
        """Return whether a reply has come that was not received yet."""
        try:
            return bool(self._device.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def call(self, opcode: int, body: bytes = b"", node: int = ROOT, thread: int = THREAD) -> bytes:
        return self.receive(self.send(opcode, body, node, thread))

    def init(self, offered: int = 0) -> bytes:
        return self.call(Opcode.INIT, struct.pack("=IIII48x", 7, 40, MEGABYTE, offered))

    # Names

    def lookup(self, name: str, node: int = ROOT, thread: int = THREAD) -> Entry:
        return _unpack_entry(self.call(Opcode.LOOKUP, os.fsencode(name) + b"\0", node, thread))

    def forget(self, node: int, lookups: int = 1) -> None:
        """Forget so many lookups of a node; there is no reply."""
        self.send(Opcode.FORGET, struct.pack("=Q", lookups), node)

    def readlink(self, node: int) -> str:
        return os.fsdecode(self.call(READLINK, node=node))

    def mkdir(self, name: str, mode: int = 0o755) -> Entry:
        return _unpack_entry(self.call(Opcode.MKDIR, struct.pack("=II", mode, 0) + os.fsencode(name) + b"\0"))

    def symlink(self, name: str, target: str) -> Entry:
        return _unpack_entry(self.call(SYMLINK, os.fsencode(f"{name}\0{target}\0")))

    def unlink(self, name: str) -> None:
        self.call(Opcode.UNLINK, os.fsencode(name) + b"\0")

    def rmdir(self, name: str) -> None:
        self.call(Opcode.RMDIR, os.fsencode(name) + b"\0")

    def rename(self, old: str, new: str) -> None:
        self.call(Opcode.RENAME, struct.pack("=Q", ROOT) + os.fsencode(f"{old}\0{new}\0"))

    def list(self, node: int = ROOT, opcode: int = Opcode.READDIR, room: int = 4096) -> dict[str, int]:
        """The names in a directory with the node that each entry has; 0 for none, as in all replies to READDIR.

        `room`: bytes of one reply; the rest is requested from the offset of its last entry.
        """
        handle, before = self.opendir(node), ENTRY if opcode == Opcode.READDIRPLUS else 0
        found, offset = dict[str, int](), 0
        while data := self.call(opcode, struct.pack("=QQII16x", handle, offset, room, 0), node):
            assert len(data) <= room
            while data:
                entry, data = data[:before], data[before:]
                offset, length = struct.unpack_from("=8xQI", data)
                found[os.fsdecode(data[24 : 24 + length])] = (
                    struct.unpack_from("=Q", entry)[0] if entry else 0
                )
                data = data[24 + length + -length % 8 :]
        return found

    def opendir(self, node: int = ROOT) -> int:
        """Return the handle of a directory, which is libfuse's own."""
        return int(struct.unpack_from("=Q", self.call(OPENDIR, bytes(8), node))[0])

    # Attributes

    def getattr(self, node: int = ROOT, handle: int | None = None, thread: int = THREAD) -> Attributes:
        flags = 0 if handle is None else 1
        data = self.call(Opcode.GETATTR, struct.pack("=IIQ", flags, 0, handle or 0), node, thread)
        return _unpack_reply(data)

    def setattr(self, node: int, **values: int) -> Attributes:
        """`values`: by the name of the field in `fuse_setattr_in`; times in nanoseconds."""
        bits = {"mode": 1, "uid": 2, "gid": 4, "size": 8, "atime": 16, "mtime": 32, "fh": 64}
        seconds, fractions = zip(
            *(divmod(values.get(name, 0), 10**9) for name in ("atime", "mtime")), strict=True
        )
        given = [values.get(name, 0) for name in ("mode", "uid", "gid")]
        body = struct.pack(
            "=IIQQQQQQIIIIIIII", sum(bits[name] for name in values), 0, values.get("fh", 0), values.get("size", 0), 0,
            *seconds, 0, *fractions, 0, given[0], 0, *given[1:], 0,
        )  # fmt: skip
        return _unpack_reply(self.call(Opcode.SETATTR, body, node))

    # Files

    def open(self, node: int, flags: int = os.O_RDONLY, thread: int = THREAD) -> Opened:
        data = self.call(Opcode.OPEN, struct.pack("=II", flags, 0), node, thread)
        handle, reply_flags = struct.unpack_from("=QI", data)
        return Opened(node, handle, flags, reply_flags)

    def create(self, name: str, flags: int = os.O_RDWR, mode: int = 0o644) -> Opened:
        body = struct.pack("=IIII", flags, mode, 0, 0) + os.fsencode(name) + b"\0"
        data = self.call(Opcode.CREATE, body)
        handle, reply_flags = struct.unpack_from("=QI", data, ENTRY)
        return Opened(_unpack_entry(data).node, handle, flags, reply_flags)

    def read(self, file: Opened, size: int = 4096, offset: int = 0) -> bytes:
        body = struct.pack("=QQIIQII", file.handle, offset, size, 0, 0, file.flags, 0)
        return self.call(Opcode.READ, body, file.node)

    def write(self, file: Opened, data: bytes, offset: int = 0, *, mapped: bool = False) -> int:
        """`mapped`: a page of a mapping, which the kernel writes back."""
        body = struct.pack("=QQIIQII", file.handle, offset, len(data), mapped, 0, file.flags, 0) + data
        return int(struct.unpack_from("=I", self.call(WRITE, body, file.node))[0])

    def truncate(self, file: Opened, size: int) -> None:
        self.setattr(file.node, size=size, fh=file.handle)

    def flush(self, file: Opened) -> None:
        self.call(Opcode.FLUSH, struct.pack("=Q16x", file.handle), file.node)

    def fsync(self, file: Opened) -> None:
        self.call(Opcode.FSYNC, struct.pack("=Q8x", file.handle), file.node)

    def release(self, file: Opened) -> None:
        self.call(Opcode.RELEASE, struct.pack("=QII8x", file.handle, file.flags, 0), file.node)


class _Arguments(ctypes.Structure):
    """`struct fuse_args`."""

    _fields_ = (("count", _int), ("words", _pointer), ("allocated", _int))


def _fuse_new() -> Any:
    """Return the current version of `fuse_new`, which a lookup without a version does not find."""
    lookup = ctypes.CDLL(None).dlvsym
    lookup.restype, lookup.argtypes = _pointer, (_pointer, ctypes.c_char_p, ctypes.c_char_p)
    address = lookup(fuse._libfuse._handle, b"fuse_new", b"FUSE_2.6")
    return ctypes.CFUNCTYPE(_pointer, _pointer, _pointer, _pointer, _size, _pointer)(address)


class SocketMount:
    """Stands in for a mount (`calls`): `setup` does all of `fuse_setup` except mounting, and libfuse gets a socket as its device.

    `words`: the command line that it was called with. If there is a `complaint`, it writes that to stderr, and fails.
    `errors`: those with which the next reads of requests fail.
    """

    def __init__(self) -> None:
        device, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (device, mine):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MEGABYTE)
        self.device, self.kernel = device, Kernel(mine)
        self._mine = mine
        self.words: list[bytes] = []
        self.complaint: bytes | None = None
        self.errors: list[int] = []
        self.calls = loop.KernelCalls(self._setup, self._readv)
        self._operations = ChannelOperations(send=_send_prototype(self._send))

    def _setup(
        self, count: int, words: Any, table: Any, size: int, mountpoint: Any, threaded: Any, data: None
    ) -> int | None:
        self.words = list(words)
        if self.complaint is not None:
            os.write(2, self.complaint)
            return None
        ctypes.cast(mountpoint, ctypes.POINTER(_pointer)).contents.value = None
        ctypes.cast(threaded, ctypes.POINTER(_int)).contents.value = 0
        channel = loop._fuse_chan_new(ctypes.byref(self._operations), self.device.fileno(), 33 * 4096, None)
        given = (ctypes.c_char_p * 3)(b"jobfs", b"-o", self.words[3])
        arguments = _Arguments(3, ctypes.cast(given, _pointer), 0)
        return int(_fuse_new()(channel, ctypes.byref(arguments), table, size, data))

    def _send(self, channel: int, vector: int | None, count: int) -> int:
        """Send a reply, as the channel of a mount does; FORGET has none."""
        if vector is None:
            return 0
        words = (ctypes.c_size_t * (2 * count)).from_address(vector)
        os.write(self.device.fileno(), b"".join(map(ctypes.string_at, words[::2], words[1::2])))
        return 0

    def _readv(self, descriptor: int, buffers: Sequence[Any]) -> int:
        """Read a request; the end of the socket is that of the file system."""
        length = os.readv(descriptor, buffers)
        if self.errors:
            raise OSError(self.errors.pop(0), "as the kernel")
        if not length:
            raise OSError(errno.ENODEV, "unmounted")
        return length

    def unmount(self) -> None:
        self._mine.shutdown(socket.SHUT_WR)

    def refuse_replies(self) -> None:
        """Refuse all replies from now on, as the kernel does those to programs that have got EINTR."""
        self._mine.shutdown(socket.SHUT_RD)

    @contextmanager
    def long_replies_refused(self) -> Iterator[None]:
        """Refuse those of more than 5 KB for the block: they do not fit the socket."""
        size = self.device.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        yield
        self.device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // 2)

    def close(self) -> None:
        self._mine.close()
        self.device.close()
