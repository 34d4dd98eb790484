"""What libfuse's answers lack: that the kernel is to look again, now or soon, and need not tell of a close.

The kernel looks a name up, and then opens or asks about the node that it found. If a rename has put another file there in
between, libfuse, or the file that is hidden because it is still open, has no name for that node any more, and says ENOENT, where
a disk would just have one of the two files. ESTALE says what is true, and the kernel then looks the name up again: a
name that is really gone gets its ENOENT from that. Who holds a directory open that was removed has no name to be looked up, and
asks about the same node again: that gets its ENOENT here.

The kernel has one size for a path, and ends every reader there. Where another version is open than is shown, it is told to keep
the attributes for no time: it asks a reader's own file again before it says that the end is reached.
"""

from __future__ import annotations

import ctypes
import errno

from jobfs.fuse.interrupt import HEAD, AtWork, Desk, Opcode
from jobfs.vfs import CHANGES

#: Requests about a node that the kernel found by a name, which it repeats from that name on after ESTALE.
_ABOUT_A_NODE = frozenset({Opcode.OPEN, Opcode.GETATTR})
#: Most threads of which it is remembered what they were told to look up again.
_TOLD = 1000
#: Requests whose answers are looked at here.
ANSWERED_HERE = _ABOUT_A_NODE | {Opcode.LOOKUP}

#: Of the kernel, since 5.16; an older one asks as before.
_NO_FLUSH = 1 << 5

_pointer = ctypes.c_void_p
send_prototype = ctypes.CFUNCTYPE(ctypes.c_int, _pointer, _pointer, ctypes.c_size_t)
# The interpreter is not let go of: a write of an answer waits for nothing, and to get it back may take longer.
_libc = ctypes.PyDLL(None, use_errno=True)
_writev = _libc.writev
_writev.argtypes = (ctypes.c_int, _pointer, ctypes.c_int)
_writev.restype = ctypes.c_ssize_t
write = _libc.write
write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
write.restype = ctypes.c_ssize_t

#: Where an answer has its error, in `fuse_out_header`; and the flags of what is opened, in `fuse_open_out`.
_ERROR, _OPEN_FLAGS = 4, 8
#: Bytes of `fuse_attr_out`.
_ATTR = 104
#: Where the seconds and the nanoseconds are for which attributes are good: in `fuse_attr_out`, and in `fuse_entry_out`.
_VALID = {Opcode.GETATTR: (0, 8), Opcode.LOOKUP: (24, 36)}


class _Piece(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("address", _pointer), ("length", ctypes.c_size_t))


class ChannelOperations(ctypes.Structure):
    """`struct fuse_chan_ops` of libfuse 2.9, for a channel on which only answers are sent."""

    _fields_ = (("receive", _pointer), ("send", send_prototype), ("destroy", _pointer))


def channel_operations(device: int, here: AtWork) -> ChannelOperations:
    """What sends libfuse's answers to the kernel, but for ENOENT about a node. To be kept as long as the channel.

    The close of a file that is opened to be read need not be told: there is nothing to be sent. What `here.desk` is
    `keeping` gets libfuse's answer to a getattr, unless that is `brief`.
    """

    told: dict[int, int] = {}  # the node, by the thread that is to look it up again

    def send(channel: int, vector: int, count: int) -> int:
        desk = here.desk
        opcode, _, node = HEAD.unpack_from(desk.buffer)
        if count > 1:
            add(desk, opcode, node, piece(vector, 1)[0])
        elif opcode in _ABOUT_A_NODE:
            look_again(desk, ctypes.c_int32.from_address(piece(vector, 0)[0] + _ERROR))
        if _writev(device, vector, count) < 0:
            # Of a program that was told to end, which libfuse is to know; or the mount is over.
            return -ctypes.get_errno()
        return 0

    def look_again(desk: Desk, error: ctypes.c_int32) -> None:
        node, thread = desk.about()
        if error.value == -errno.ENOENT and told.pop(thread, None) != node:
            error.value = -errno.ESTALE
            if len(told) > _TOLD:
                told.clear()
            told[thread] = node

    def add(desk: Desk, opcode: int, node: int, answer: int) -> None:
        if opcode == Opcode.OPEN:
            if not desk.flags.value & CHANGES:
                ctypes.c_uint32.from_address(answer + _OPEN_FLAGS).value |= _NO_FLUSH
        elif desk.brief:
            seconds, nanoseconds = _VALID[Opcode(opcode)]
            ctypes.memset(answer + seconds, 0, 8)
            ctypes.memset(answer + nanoseconds, 0, 4)
        elif desk.keeping is not None and opcode == Opcode.GETATTR:
            desk.keeping[node] = ctypes.string_at(answer, _ATTR)

    return ChannelOperations(send=send_prototype(send))


def piece(vector: int, number: int) -> tuple[int, int]:
    """Where a piece of an answer is, and its length in bytes: a `struct iovec`."""
    found = _Piece.from_address(vector + number * ctypes.sizeof(_Piece))
    return found.address or 0, found.length
