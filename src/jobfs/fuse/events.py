"""Events for what the job does (vfs/semantics.md 7): a helper makes calls on the mount, which are answered and do nothing.

The kernel sends events to watchers of a directory for calls that programs make, and for nothing else. So a helper
(event_helper.py) makes the call that has the event, and the answers here say what the call is meant to find. No answer makes a
request: the kernel holds a directory until a call in it is answered. Nothing that a helper asks for changes anything, even if it
comes late.
"""

from __future__ import annotations

import errno
import json
import logging
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from jobfs import names
from jobfs.errors import FsError
from jobfs.fuse import event_helper
from jobfs.fuse.interrupt import ANSWER, HEAD, HEADER_END, Opcode, WorkerSlot
from jobfs.fuse.replies import write
from jobfs.fuse.sizes import KernelSizes
from jobfs.nodes import Attr

_log = logging.getLogger("jobfs.fuse.events")

#: Seconds that a call may take; after that its helper is given up.
_PATIENCE = 2.0
#: The handle of a file that a helper opens: no file of the Vfs has such a number.
_HANDLE = 2**64 - 2
#: `fuse_open_out`: the kernel keeps the pages of the file, and need not tell the close.
_OPENED = struct.pack("=QII", _HANDLE, 1 << 1 | 1 << 5, 0)
#: `fuse_release_in`: its handle.
_RELEASED = struct.Struct("=40xQ")
#: Bytes before the name in requests that make something, after the header.
_BEFORE_NAME = {Opcode.MKNOD: 16, Opcode.MKDIR: 8}
#: `fuse_getattr_in`: no handle.
_GETATTR = bytes(16)
#: Where `fuse_entry_out` and `fuse_attr_out` say how long they are good, in bytes; the node, with which the first begins.
_VALID = {Opcode.LOOKUP: slice(16, 40), Opcode.GETATTR: slice(0, 12)}
_NUMBER = struct.Struct("=Q")


class HelperCall(NamedTuple):
    """A call that a helper is to make: its name in event_helper.py, its path, the new path of a rename."""

    name: str
    path: str
    new: str = ""

    @property
    def created_path(self) -> str | None:
        """The path at which it is to find nothing, and makes something."""
        return self.new or (self.path if self.name in ("create", "mkdir") else None)

    @property
    def is_removal(self) -> bool:
        """True if what it finds at its path was there before, and is there no more."""
        return bool(self.new) or self.name in ("unlink", "rmdir")


class EventInjector:
    """Has a helper make calls, one at a time; only one thread may have that done.

    `last_attr` gives the attributes of a path without a request; it raises FsError.
    """

    def __init__(self, last_attr: Callable[[str], Attr]) -> None:
        #: Where the mount is, and the number of its device (`st_dev`).
        self.mount = ("", 0)
        self._known = last_attr
        #: What was at paths before the changes that are told: a call finds there what it removes, also on its way to that.
        self.before: Mapping[str, Attr] = {}
        self._call: HelperCall | None = None
        self._made = False
        self._helper: subprocess.Popen[bytes] | None = None
        #: The helpers by their process; one that was given up until it has ended, for a call of it may still come.
        self.helpers: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def inject(self, call: HelperCall) -> int:
        """Have a call made; its errno, 0 if it was made. EPIPE: the helper has ended meanwhile; ETIMEDOUT: it hangs."""
        self._made, self._call, code = False, call, errno.EPIPE
        try:
            helper = self._start_helper()
            if helper is None or helper.stdin is None or helper.stdout is None:
                return errno.EPIPE
            words = [call.name, call.path or ".", *([call.new] if call.new else [])]
            helper.stdin.write(json.dumps(words).encode() + b"\n")
            helper.stdin.flush()
            answers = select.poll()  # select takes no descriptor over 1023
            answers.register(helper.stdout, select.POLLIN)
            if not answers.poll(_PATIENCE * 1000):
                code = errno.ETIMEDOUT
            elif answer := helper.stdout.readline():
                return int(answer)
            _log.warning("the helper that tells watchers of changes did not answer: another one is started")
        except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            _log.info("watchers are not told of a change: %s", error)
        finally:
            self._call = None
        self._kill_helper()
        return code

    def close(self) -> None:
        """End the helper, and start none any more. It has ended then, unless nobody answers a call of it."""
        with self._lock:
            self._closed = True
        self._kill_helper()
        for helper in [*self.helpers.values()]:
            with suppress(subprocess.TimeoutExpired):
                helper.wait(_PATIENCE)

    def _start_helper(self) -> subprocess.Popen[bytes] | None:
        if self._helper is not None and self._helper.poll() is not None:
            self._kill_helper()
        with self._lock:
            if self._helper is None and not self._closed:
                words = [
                    sys.executable,
                    "-I",
                    "-S",
                    "-X",
                    "utf8",
                    event_helper.__file__,
                    *map(str, self.mount),
                ]
                self._helper = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
                    start_new_session=True,
                )  # fmt: skip
                self.helpers[self._helper.pid] = self._helper
            helper = self._helper
        # Not without a new one: while there is one, the release of a file that an earlier one had open is recognised.
        for process, old in [*self.helpers.items()] if helper is not None else ():
            if old is not helper and old.poll() is not None:
                del self.helpers[process]
        return helper

    def _kill_helper(self) -> None:
        with self._lock:
            helper, self._helper = self._helper, None
        if helper is not None:
            helper.kill()
            for pipe in (helper.stdin, helper.stdout):
                with suppress(OSError):
                    pipe and pipe.close()

    # What the threads that serve the mount ask

    def attr_for_helper(self, path: str) -> Attr:
        """What a helper is to find at a path. Raises FsError."""
        call = self._call
        if call is not None and not self._made:
            if path == call.created_path:
                raise FsError(errno.ENOENT)
            if call.is_removal and path in self.before and names.is_at_or_below(call.path, path):
                return self.before[path]
        return self._known(path)

    def is_moved(self, old: str, new: str) -> bool:
        """True if the renamed file is what is at `new`, and nothing is at `old`: a program may have made a file at either since.

        Then libfuse must not rename its node, which is that program's file.
        """
        with suppress(FsError):
            self._known(old)
            return False
        with suppress(FsError):
            return old in self.before and self._known(new).ino == self.before[old].ino
        return False

    def expects_request(self, opcode: int) -> bool:
        """True if the call under way is one that makes such a request."""
        return self._call is not None and opcode in _REQUESTS.get(self._call.name, ())

    def mark_made(self) -> None:
        """The helper's call finds from now on what is known."""
        self._made = True


_REQUESTS: dict[str, tuple[Opcode, ...]] = {
    "create": (Opcode.MKNOD,),
    "mkdir": (Opcode.MKDIR,),
    "unlink": (Opcode.UNLINK,),
    "rmdir": (Opcode.RMDIR,),
    "rename": (Opcode.RENAME,),
    "modify": (Opcode.SETATTR,),
    "attributes": (Opcode.SETATTR,),
    "close": (Opcode.OPEN,),
}


class InjectedReplies:
    """Answers the requests of helpers.

    `ask` gives libfuse's answer to a request, of which it gets the opcode and all behind that.
    """

    def __init__(
        self, device: int, ask: Callable[[Opcode, bytes], bytes], injector: EventInjector, sizes: KernelSizes
    ) -> None:
        self._device, self._ask, self._teller, self._sizes = device, ask, injector, sizes

    def reply(self, slot: WorkerSlot, request: bytes) -> None:
        """Answer a request of a helper."""
        opcode, unique, node = HEAD.unpack_from(request)
        slot.request.injected = True
        number, body = self._make_reply(opcode, node, request)
        answer = ANSWER.pack(ANSWER.size + len(body), -number, unique) + body
        write(self._device, answer, len(answer))

    def reply_to_release(self, request: bytes) -> bool:
        """True if a request was the release of a file that a helper has opened; and answer it: no process is named in it."""
        if _RELEASED.unpack_from(request)[0] != _HANDLE:
            return False
        answer = ANSWER.pack(ANSWER.size, 0, HEAD.unpack_from(request)[1])
        write(self._device, answer, len(answer))
        return True

    def _make_reply(self, opcode: int, node: int, request: bytes) -> tuple[int, bytes]:
        """The errno, and what follows the header of the answer."""
        header, rest = request[8:HEADER_END], request[HEADER_END:]
        if opcode in (Opcode.LOOKUP, Opcode.GETATTR):
            return self._node_reply(Opcode(opcode), node, header + rest)
        if opcode == Opcode.FLUSH:
            return 0, b""
        if not self._teller.expects_request(opcode):
            return errno.EIO, b""
        if opcode in _BEFORE_NAME:
            self._teller.mark_made()
            return self._node_reply(Opcode.LOOKUP, node, header + rest[_BEFORE_NAME[Opcode(opcode)] :])
        if opcode == Opcode.SETATTR:
            return self._node_reply(Opcode.GETATTR, node, header + _GETATTR)
        if opcode == Opcode.OPEN:
            return 0, _OPENED
        if opcode in (Opcode.RMDIR, Opcode.RENAME):
            # libfuse gives the node another name, or none: the driver does nothing.
            return -ANSWER.unpack_from(self._ask(Opcode(opcode), header + rest))[1], b""
        return 0, b""

    def _node_reply(self, opcode: Opcode, node: int, rest: bytes) -> tuple[int, bytes]:
        """libfuse's answer, good for no time."""
        answer = self._ask(opcode, rest)
        body = bytearray(answer[ANSWER.size :])
        if body:
            body[_VALID[opcode]] = bytes(len(body[_VALID[opcode]]))
            if opcode == Opcode.LOOKUP:
                (node,) = _NUMBER.unpack_from(body)
            # The kernel asks again before it goes by this size.
            self._sizes.forget(node)
        return -ANSWER.unpack_from(answer)[1], bytes(body)
