"""The kernel's requests: their opcodes and headers (linux/fuse.h), and the request that each thread serves."""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading
from enum import IntEnum
from typing import NamedTuple


class Opcode(IntEnum):
    """The opcodes that this package handles (linux/fuse.h)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    OPEN = 14
    READ = 15
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    READDIR = 28
    CREATE = 35
    READDIRPLUS = 44


#: `fuse_in_header`: length, opcode, unique, node, uid, gid, thread, padding; then the flags of an open.
_HEADER = struct.Struct("=IIQQIII4xI")
#: Of the same header: opcode, unique, node; and its length in bytes.
HEAD, HEADER_END = struct.Struct("=4xIQQ"), 40
#: `fuse_out_header`: length, error, unique.
REPLY_HEADER = struct.Struct("=IiQ")


class Header(NamedTuple):
    """The header of a request in a slot's buffer; `sequence` distinguishes it from other requests in the same buffer."""

    sequence: int
    opcode: int
    unique: int
    thread: int
    flags: int


class Request:
    """A request while it is served: what libfuse's callbacks and the sender of its reply share."""

    #: True: the request is from a helper (see events.py) and must change nothing.
    is_injected = False
    #: The cache that the reply to a getattr goes into; None if the reply must not be reused.
    attr_cache: dict[str | int, bytes] | None = None
    #: True: the kernel must not cache the attributes in the reply.
    is_attr_uncached = False
    #: True: the LOOKUP has found a node at which another version is being read. Its reply is held back, and the LOOKUP is
    #: repeated once the node is detached from its path.
    must_detach_node = False
    #: The handle with which a getattr must be repeated; 0 for none.
    retry_handle = 0

    def __init__(self, opcode: int, node: int, began: int) -> None:
        """`began`: `KernelSizes.logical_clock` when the request was read. Other fields have class defaults: that is cheap."""
        self.opcode, self.node, self.began = opcode, node, began

    @property
    def forbids_fetch(self) -> bool:
        """Return whether attributes must come without a request to the server: those in a listing."""
        return self.opcode == Opcode.READDIRPLUS


class WorkerSlot:
    """The request buffer of one thread of the loop pool, and the request that the thread serves.

    `sequence` is odd while a request is served, as in a seqlock: another thread trusts what it reads in the buffer only if the
    sequence was odd, and is still the same afterwards.
    """

    def __init__(self, size: int) -> None:
        # A mapping takes memory only for pages that were written; `create_string_buffer` writes all of them.
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.buffer = (ctypes.c_char * size).from_buffer(memory)
        self.address = ctypes.addressof(self.buffer)
        #: The flags of an open or a getattr, after the header.
        self.flags = ctypes.c_uint32.from_buffer(self.buffer, 40)
        #: The handle of a getattr that names one.
        self.getattr_handle = ctypes.c_uint64.from_buffer(self.buffer, 48)
        #: The current request, or else the last one.
        self.request = Request(0, 0, 0)
        #: libfuse's reply to a request that this process made.
        self.captured_reply = b""
        self.sequence = 0
        #: The sequence of the last request that was answered with EINTR.
        self.interrupted_sequence = -1
        #: Not empty while the slot's thread may read requests (see loop.py). A list: only one of two threads can pop its entry.
        self.token: list[bool] = []
        self._last_sequence = 0

    @property
    def thread(self) -> int:
        """Return the id of the thread that made the request."""
        return int(_HEADER.unpack_from(self.buffer)[6])

    def stuck_request(self) -> Header | None:
        """Return the header of the current request if the last call of this method met the same one; else None."""
        sequence, last = self.sequence, self._last_sequence
        self._last_sequence = sequence
        if sequence % 2 == 0 or sequence != last:
            return None
        _, opcode, unique, _, _, _, thread, flags = _HEADER.unpack_from(self.buffer)
        return Header(sequence, opcode, unique, thread, flags) if self.sequence == sequence else None


class CurrentSlot(threading.local):
    """The slot of the current thread."""

    slot: WorkerSlot
