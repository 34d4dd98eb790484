"""Events for what the job does (vfs/semantics.md 7): a helper makes system calls on the mount, which change nothing.

The kernel sends inotify events only for system calls that programs make. So a helper (event_helper.py) makes the call that
produces the event, and the replies built here show the helper what that call expects. No reply makes a request to the server: the
kernel holds a directory until a call in it is answered. No request of a helper changes anything, even if it comes late.
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
from jobfs.fuse.replies import write
from jobfs.fuse.requests import HEAD, HEADER_END, REPLY_HEADER, Opcode, WorkerSlot
from jobfs.fuse.sizes import KernelSizes
from jobfs.nodes import Attr

_log = logging.getLogger("jobfs.fuse.events")

#: The handle of a file that a helper opens; no file of the Vfs has this number.
_HANDLE = 2**64 - 2
#: `fuse_open_out` with FOPEN_KEEP_CACHE and FOPEN_NOFLUSH: the kernel keeps the file's pages and sends no FLUSH.
_OPENED = struct.pack("=QII", _HANDLE, 1 << 1 | 1 << 5, 0)
#: `fuse_release_in`: its handle, after the header.
_RELEASED = struct.Struct("=40xQ")
#: Bytes between the header and the name in requests that create a node.
_BEFORE_NAME = {Opcode.MKNOD: 16, Opcode.MKDIR: 8}
#: `fuse_getattr_in` without a handle.
_GETATTR = bytes(16)
#: Where `fuse_entry_out` and `fuse_attr_out` say for how long they are valid, in bytes.
_VALID = {Opcode.LOOKUP: slice(16, 40), Opcode.GETATTR: slice(0, 12)}
#: The node, the first field of `fuse_entry_out`.
_NUMBER = struct.Struct("=Q")


class HelperCall(NamedTuple):
    """A system call for a helper: its name in event_helper.py, its path, and the new path of a rename."""

    name: str
    path: str
    new: str = ""

    @property
    def created_path(self) -> str | None:
        """Return the path at which the call creates a name, so that it must find nothing there; None if it creates none."""
        return self.new or (self.path if self.name in ("create", "mkdir") else None)

    @property
    def is_removal(self) -> bool:
        """True if the call removes the name `path`. The job has removed it already, so the kernel must be shown a file there."""
        return bool(self.new) or self.name in ("unlink", "rmdir")


class EventInjector:
    """Makes a helper process perform system calls, one at a time. Only one thread may call `inject`.

    `last_attr` returns the attributes of a path without a request, and raises FsError.
    """

    def __init__(self, last_attr: Callable[[str], Attr], patience: float = 2.0) -> None:
        #: The mount point, and the number of its device (`st_dev`).
        self.mount = ("", 0)
        #: Seconds that a call may take; after that its helper is killed.
        self.patience = patience
        self._last_attr = last_attr
        #: By path, the attributes before the changes that are being announced: a call that removes a name finds these.
        self.previous_attrs: Mapping[str, Attr] = {}
        self._call: HelperCall | None = None
        self._has_reached_request = False
        self._helper: subprocess.Popen[bytes] | None = None
        #: The helpers by process id. A killed helper stays until it has ended, because its last call may still arrive.
        self.helpers: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def inject(self, call: HelperCall) -> int:
        """Make the helper perform a call; return its errno, 0 for success.

        EPIPE: the helper has ended. ETIMEDOUT: the helper hangs, and has been killed.
        """
        self._has_reached_request, self._call, code = False, call, errno.EPIPE
        try:
            helper = self._start_helper()
            if helper is None or helper.stdin is None or helper.stdout is None:
                return errno.EPIPE
            words = [call.name, call.path or ".", *([call.new] if call.new else [])]
            helper.stdin.write(json.dumps(words).encode() + b"\n")
            helper.stdin.flush()
            answers = select.poll()  # select takes no descriptor over 1023
            answers.register(helper.stdout, select.POLLIN)
            if not answers.poll(self.patience * 1000):
                code = errno.ETIMEDOUT
            elif answer := helper.stdout.readline():
                return int(answer)
            _log.warning("the helper that sends events to watchers did not answer: starting another one")
        except (OSError, ValueError) as error:  # ValueError: a pipe has been closed by `close`
            _log.info("watchers get no event for a change: %s", error)
        finally:
            self._call = None
        self._kill_helper()
        return code

    def close(self) -> None:
        """Kill the helper, and start no other. Wait up to 2 seconds for it to end: it can't while nobody answers its call."""
        with self._lock:
            self._closed = True
        self._kill_helper()
        for helper in [*self.helpers.values()]:
            with suppress(subprocess.TimeoutExpired):
                helper.wait(self.patience)

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
        # Kept until there is a new helper: without one, `_serve` would not recognize the RELEASE of a file that an old one
        # opened.
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

    # Questions of the threads that serve the mount

    def attr_for_helper(self, path: str) -> Attr:
        """Return the attributes that a helper's call needs at a path, so that the kernel sends the request of the call.

        Until that request comes, a name to be created is missing (ENOENT), and a name to be removed has the attributes from
        before its removal. All else is as last shown. Raises FsError.
        """
        call = self._call
        if call is not None and not self._has_reached_request:
            if path == call.created_path:
                raise FsError(errno.ENOENT)
            if call.is_removal and path in self.previous_attrs and names.is_at_or_below(call.path, path):
                return self.previous_attrs[path]
        return self._last_attr(path)

    def has_moved(self, old: str, new: str) -> bool:
        """Return whether the renamed file is at `new`, and nothing is at `old`.

        A program may have made a file at either path since. Then libfuse must not rename its node, which is that program's file.
        """
        with suppress(FsError):
            self._last_attr(old)
            return False
        with suppress(FsError):
            return old in self.previous_attrs and self._last_attr(new).ino == self.previous_attrs[old].ino
        return False

    def expects_request(self, opcode: int) -> bool:
        """Return whether the call in progress makes a request with this opcode."""
        return self._call is not None and opcode in _REQUESTS.get(self._call.name, ())

    def mark_request_reached(self) -> None:
        """Note that the call has reached its request: from then on the helper finds the current attributes."""
        self._has_reached_request = True


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
    """Replies to the requests of helpers.

    `ask` returns libfuse's reply to a request; it takes the opcode and everything after the opcode.
    """

    def __init__(
        self, device: int, ask: Callable[[Opcode, bytes], bytes], injector: EventInjector, sizes: KernelSizes
    ) -> None:
        self._device, self._ask, self._injector, self._sizes = device, ask, injector, sizes

    def reply(self, slot: WorkerSlot, request: bytes) -> None:
        """Reply to a request of a helper."""
        opcode, unique, node = HEAD.unpack_from(request)
        slot.request.is_injected = True
        number, body = self._make_reply(opcode, node, request)
        message = REPLY_HEADER.pack(REPLY_HEADER.size + len(body), -number, unique) + body
        write(self._device, message, len(message))

    def reply_to_release(self, request: bytes) -> bool:
        """Reply to a RELEASE if it is of a file that a helper opened; return whether it was.

        The handle shows that: a RELEASE names no process.
        """
        if _RELEASED.unpack_from(request)[0] != _HANDLE:
            return False
        reply = REPLY_HEADER.pack(REPLY_HEADER.size, 0, HEAD.unpack_from(request)[1])
        write(self._device, reply, len(reply))
        return True

    def _make_reply(self, opcode: int, node: int, request: bytes) -> tuple[int, bytes]:
        """Return the errno, and what follows the header of the reply."""
        header, rest = request[8:HEADER_END], request[HEADER_END:]
        if opcode in (Opcode.LOOKUP, Opcode.GETATTR):
            return self._node_reply(Opcode(opcode), node, header + rest)
        if opcode == Opcode.FLUSH:
            return 0, b""
        if not self._injector.expects_request(opcode):
            return errno.EIO, b""
        if opcode in _BEFORE_NAME:
            self._injector.mark_request_reached()
            return self._node_reply(Opcode.LOOKUP, node, header + rest[_BEFORE_NAME[Opcode(opcode)] :])
        if opcode == Opcode.SETATTR:
            return self._node_reply(Opcode.GETATTR, node, header + _GETATTR)
        if opcode == Opcode.OPEN:
            return 0, _OPENED
        if opcode in (Opcode.RMDIR, Opcode.RENAME):
            # libfuse renames or removes its node; the driver does nothing.
            return -REPLY_HEADER.unpack_from(self._ask(Opcode(opcode), header + rest))[1], b""
        return 0, b""

    def _node_reply(self, opcode: Opcode, node: int, rest: bytes) -> tuple[int, bytes]:
        """Return the errno and body of libfuse's reply, with a validity of zero."""
        reply = self._ask(opcode, rest)
        body = bytearray(reply[REPLY_HEADER.size :])
        if body:
            body[_VALID[opcode]] = bytes(len(body[_VALID[opcode]]))
            if opcode == Opcode.LOOKUP:
                (node,) = _NUMBER.unpack_from(body)
            # The kernel asks again before it relies on this size.
            self._sizes.forget(node)
        return -REPLY_HEADER.unpack_from(reply)[1], bytes(body)
