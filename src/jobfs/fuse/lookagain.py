"""A name that another file has got meanwhile: the kernel looks again instead of telling a program that there is none.

The kernel looks a name up, and then opens or asks about the node that it found. If a rename has put another file there in
between, libfuse, or the file that is hidden because it is still open, has no name for that node any more, and says ENOENT, where
a disk would just have one of the two files. ESTALE says what is true, and the kernel then looks the name up again: a
name that is really gone gets its ENOENT from that.
"""

from __future__ import annotations

import ctypes
import errno

from jobfs.fuse.interrupt import Opcode

#: Requests about a node that the kernel found by a name, which it repeats from that name on after ESTALE.
ABOUT_A_NODE = frozenset({Opcode.OPEN, Opcode.GETATTR})

_send_prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_writev = ctypes.CDLL(None, use_errno=True).writev
_writev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_writev.restype = ctypes.c_ssize_t


class _Answer(ctypes.Structure):
    """`fuse_out_header`."""

    _fields_ = (("length", ctypes.c_uint32), ("error", ctypes.c_int32), ("unique", ctypes.c_uint64))


class ChannelOperations(ctypes.Structure):
    """`struct fuse_chan_ops` of libfuse 2.9, for a channel on which only answers are sent."""

    _fields_ = (
        ("receive", ctypes.c_void_p),
        ("send", _send_prototype),
        ("destroy", ctypes.c_void_p),
    )


def channel_operations(device: int) -> ChannelOperations:
    """What sends libfuse's answers to the kernel as they are, but for ENOENT. To be kept as long as the channel."""

    def send(channel: int, vector: int, count: int) -> int:
        # The first piece is the answer's head; its address comes first in a `struct iovec`.
        head = _Answer.from_address(ctypes.c_void_p.from_address(vector).value or 0)
        if head.error == -errno.ENOENT:
            head.error = -errno.ESTALE
        if _writev(device, vector, count) < 0:
            # Of a program that was told to end, which libfuse is to know; or the mount is over.
            return -ctypes.get_errno()
        return 0

    return ChannelOperations(send=_send_prototype(send))
