"""Listings with the attributes of their entries (READDIRPLUS), which libfuse 2.9 does not know.

Without them the kernel asks for every name that a program stats or opens, and waits for each answer: `ls -l` of ten thousand
files is ten thousand times from one process to another and back. So libfuse is asked for the listing and for the names in
it as if the kernel had asked. Its answers are caught here, and sent as one. libfuse counts those names as looked up, and so
does the kernel, which tells it later what it has forgotten.

No request is made for that: a name whose attributes are not known goes without, and the kernel asks for them if a program
wants them.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator

from jobfs.fuse.interrupt import ANSWER, AtWork, Desk, Opcode
from jobfs.fuse.lookagain import ChannelOperations, piece, send_prototype, write

#: Flags of INIT: the kernel knows such listings, and asks for them only where a program wants attributes.
_OFFERED = 1 << 13 | 1 << 14
#: Where they are: in `fuse_init_in` after the header of the request, and in `fuse_init_out` after that of the answer.
_IN_REQUEST, _IN_ANSWER = struct.Struct("=52xI"), struct.Struct("=28xI")
#: `fuse_read_in` after the header: how many bytes the kernel takes.
_ROOM = struct.Struct("=56xI")
#: `fuse_in_header`: its length and opcode, which differ from request to request; and where what follows them has the node.
_LENGTH_AND_OPCODE, _NODE, _HEADER_END = struct.Struct("=II"), slice(16, 24), 40
_NUMBER = struct.Struct("=Q")
#: `fuse_dirent` without the name: inode number, offset of the next one, length of the name, type.
_ENTRY = struct.Struct("=QQII")
#: Bytes of `fuse_entry_out`, which begins with the node; zeros: without attributes.
_FOUND = 128
_WITHOUT = bytes(_FOUND)


class ReadDirPlus:
    """Asks libfuse, and answers the kernel.

    `process` has libfuse carry out the request of so many bytes at an address, and answer on a channel with `operations`.
    Where the kernel keeps attributes for no time (`kernel_timeout`, in seconds), it is not offered any. `here`: the desk of
    the thread that asks.
    """

    def __init__(
        self, device: int, process: Callable[[int, int], None], kernel_timeout: float, here: AtWork
    ) -> None:
        self.operations = ChannelOperations(send=send_prototype(self._catch))
        self._device, self._process = device, process
        self._accepted = _OFFERED if kernel_timeout else 0
        self._here = here

    def accept(self, desk: Desk, length: int) -> None:
        """Answer INIT, the kernel's first request: as libfuse does, and with what it does not know of."""
        request = ctypes.string_at(desk.address, length)
        answer = bytearray(self._ask(Opcode.INIT, request[_LENGTH_AND_OPCODE.size :]))
        if len(answer) >= _IN_ANSWER.size:
            (offered,), (accepted,) = _IN_REQUEST.unpack_from(request), _IN_ANSWER.unpack_from(answer)
            struct.pack_into("=I", answer, _IN_ANSWER.size - 4, accepted | offered & self._accepted)
        write(self._device, bytes(answer), len(answer))

    def answer(self, desk: Desk, length: int) -> None:
        """Answer READDIRPLUS: with the names that there is room for."""
        request = ctypes.string_at(desk.address, length)
        listing = self._ask(Opcode.READDIR, request[_LENGTH_AND_OPCODE.size :])
        if desk.answered == desk.turn:
            return  # nobody waits, and the kernel may forget the directory any moment: libfuse must not look in it
        _, error, unique = ANSWER.unpack_from(listing)
        (room,) = _ROOM.unpack_from(request)
        desk.listing = True
        try:
            parts = self._entries(request, listing, room)
        finally:
            desk.listing = False
        answer = b"".join((ANSWER.pack(ANSWER.size + sum(map(len, parts)), error, unique), *parts))
        if write(self._device, answer, len(answer)) < 0:
            # Of a program that was told to end: the kernel has heard of none of them.
            before, after = request[_LENGTH_AND_OPCODE.size : _NODE.start], request[_NODE.stop : _HEADER_END]
            for found in parts[::2]:
                if any(node := found[: _NUMBER.size]):
                    self._ask(Opcode.FORGET, before + node + after + _NUMBER.pack(1))

    def _entries(self, request: bytes, listing: bytes, room: int) -> list[bytes]:
        """What is known of each name in a listing, and its entry in there, as far as there is room."""
        parts: list[bytes] = []
        for name, entry in _named(listing):
            room -= _FOUND + len(entry)
            if room < 0:
                break
            parts += self._find(request, name), entry
        return parts

    def _find(self, request: bytes, name: bytes) -> bytes:
        """What the kernel would hear of a name in the directory that a request is about."""
        if name in (b".", b".."):
            return _WITHOUT
        header = request[_LENGTH_AND_OPCODE.size : _HEADER_END]
        return self._ask(Opcode.LOOKUP, header + name + b"\0")[ANSWER.size :] or _WITHOUT

    def _ask(self, opcode: Opcode, rest: bytes) -> bytes:
        """libfuse's answer to a request, of which `rest` follows the length and the opcode."""
        message = _LENGTH_AND_OPCODE.pack(_LENGTH_AND_OPCODE.size + len(rest), opcode) + rest
        request = ctypes.create_string_buffer(message, len(message))
        self._process(ctypes.addressof(request), len(message))
        return self._here.desk.answer

    def _catch(self, channel: int, vector: int, count: int) -> int:
        self._here.desk.answer = b"".join(ctypes.string_at(*piece(vector, number)) for number in range(count))
        return 0


def _named(listing: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names in an answer to READDIR, each with its whole entry."""
    start = ANSWER.size
    while start < len(listing):
        _, _, length, _ = _ENTRY.unpack_from(listing, start)
        name = start + _ENTRY.size
        end = name + -(-length // 8) * 8
        yield listing[name : name + length], listing[start:end]
        start = end
