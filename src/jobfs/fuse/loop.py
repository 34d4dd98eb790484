# ruff: noqa: D102 - a method without a docstring is the FUSE operation of its name
"""The loop pool: long-lived threads that serve one mounted session, in place of libfuse's own loops.

One thread at a time reads: it takes a request, makes libfuse call back and reply, and takes the next. So a request whose reply is
known needs no thread switch, which would cost as much as the reply, and the pieces of a large file are requested in order. Before
a call waits for the server or for another thread (`deadline.call_blocking_hook`), its thread hands the right to read
(`ReadToken`) on to an idle thread. A thread that waits without announcing it, such as for a slow disk, loses that right at the
interrupter's next check.

A thread ends when the kernel reports that the file system is gone. There is no other way out: to end a session, unmount it. The
threads read the device themselves so that a program that gets a fatal signal need not wait for its request (interrupt.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from tempfile import TemporaryFile
from typing import IO, Any

import fuse

from jobfs.api.deadline import set_blocking_hook, start_call_deadline
from jobfs.errors import FsError, UsageError
from jobfs.fuse.driver import FuseDriver, errno_of, pack_stat, to_vfs_path
from jobfs.fuse.events import InjectedReplies
from jobfs.fuse.interrupt import Interrupter
from jobfs.fuse.replies import (
    COMPLETED_OPCODES,
    REQUEST_SIZE,
    ChannelOperations,
    ReadDirPlus,
    ReplyFilter,
    size_in_reply,
    write,
)
from jobfs.fuse.requests import HEAD, HEADER_END, REPLY_HEADER, CurrentSlot, Opcode, Request, WorkerSlot

_log = logging.getLogger("jobfs.fuse.loop")

_lib = fuse._libfuse

#: The maximum number of idle threads; one more ends. If none is idle, a thread is added, so that known replies come at once
#: however many programs wait for the server.
IDLE_THREADS = 16
#: The maximum number of threads: each program that waits has one.
_MOST_THREADS = 2048

_pointer, _path, _int = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_size, _offset = ctypes.c_size_t, fuse.c_off_t
_STAT_SIZE = ctypes.sizeof(fuse.c_stat)
#: Seconds between checks of the calls in progress.
_POLL_INTERVAL = 0.005
#: Errors after which to read again: the kernel withdrew the request, or another thread has read it.
_AGAIN = frozenset({errno.ENOENT, errno.EAGAIN, errno.EINTR})
#: Bytes of a release up to and including its handle.
_RELEASE = HEADER_END + 8
#: FUSE_GETATTR_FH: the getattr names a handle.
_WITH_A_HANDLE = 1
#: Longer than any request: a view of a request's data is cut from it to the length that the request states.
_Window = ctypes.c_ubyte * (1 << 30)


def _prototype(*arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(_int, *arguments)


#: Prototypes of the frequent operations, whose pointers arrive as numbers: fusepy's own wrap each pointer in an object at each
#: call. A path that the callback does not use is a number too.
_LEAN = {
    "getattr": _prototype(_path, _pointer),
    "fgetattr": _prototype(_pointer, _pointer, _pointer),
    "open": _prototype(_path, _pointer),
    "release": _prototype(_pointer, _pointer),
    "readdir": _prototype(_path, _pointer, _prototype(_pointer, _path, _path, _offset), _offset, _pointer),
    "read": _prototype(_pointer, _pointer, _size, _offset, _pointer),
    "write": _prototype(_pointer, _pointer, _size, _offset, _pointer),
}


class _Operations(ctypes.Structure):
    """`struct fuse_operations` of libfuse 2.9: fusepy's layout with the prototypes of `_LEAN`."""

    _fields_ = tuple(
        (name, _LEAN.get(name, kind), *bits) for name, kind, *bits in fuse.fuse_operations._fields_
    )


def _libfuse_function(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)((name, _lib))


# For these functions, unlike fuse_mount and fuse_new, a symbol lookup without a version finds the current one.
_fuse_setup = _libfuse_function(
    "fuse_setup", _pointer, _int, _pointer, _pointer, _size, ctypes.POINTER(_pointer), _pointer, _pointer
)
_fuse_get_session = _libfuse_function("fuse_get_session", _pointer, _pointer)
_fuse_session_next_chan = _libfuse_function("fuse_session_next_chan", _pointer, _pointer, _pointer)
_fuse_session_process = _libfuse_function("fuse_session_process", None, _pointer, _pointer, _size, _pointer)
_fuse_chan_fd = _libfuse_function("fuse_chan_fd", _int, _pointer)
_fuse_chan_new = _libfuse_function(
    "fuse_chan_new", _pointer, ctypes.POINTER(ChannelOperations), _int, _size, _pointer
)
_fuse_chan_destroy = _libfuse_function("fuse_chan_destroy", None, _pointer)
_fuse_chan_bufsize = _libfuse_function("fuse_chan_bufsize", _size, _pointer)
_fuse_teardown = _libfuse_function("fuse_teardown", None, _pointer, _pointer)

_info = fuse.fuse_file_info.from_address


@dataclass(frozen=True)
class KernelCalls:
    """How a session mounts, and how it reads a request from the device."""

    setup: Callable[..., int | None] = _fuse_setup
    readv: Callable[[int, Sequence[Any]], int] = os.readv


class Session(fuse.FUSE):  # type: ignore[misc]
    """One mounted session: fusepy's callbacks, the frequent ones without its overhead. Replies only while threads are in
    `serve_requests`.

    Raises UsageError with libfuse's own words if it can't mount.
    """

    def __init__(
        self, driver: FuseDriver, mountpoint: str, options: Sequence[str], kernel: KernelCalls | None = None
    ) -> None:
        self.operations = driver
        self._kernel = kernel or KernelCalls()
        self.raw_fi, self.encoding, self.use_ns = True, "utf-8", True
        self._table = self._make_callbacks()
        self._mountpoint = _pointer()
        self._fuse = self._setup(mountpoint, ",".join(options))
        self._session = _fuse_get_session(self._fuse)
        self._channel = _fuse_session_next_chan(self._session, None)
        self.device = int(_fuse_chan_fd(self._channel))
        self._current = CurrentSlot()
        driver.node = lambda: self._current.slot.request.node
        self._filter = ReplyFilter(self.device, self._current, driver.kernel_sizes, driver.nodes)
        driver.expire_attributes = self._filter.expire_attributes
        self._filter_channel = _fuse_chan_new(ctypes.byref(self._filter.operations), self.device, 0, None)
        self._plus = ReadDirPlus(self.device, self._process_own_request, self._current, driver.kernel_sizes)
        #: The method that serves a request, by opcode; `_process` serves all others.
        self._servers: dict[int, Callable[[WorkerSlot, int], None]] = {
            **dict.fromkeys(COMPLETED_OPCODES, self._process_completed),
            Opcode.INIT: self._plus.reply_to_init,
            Opcode.READDIRPLUS: self._plus.reply_to_listing,
        }
        self._injector = driver.injector
        self._injected = InjectedReplies(
            self.device, self._plus.ask_libfuse, driver.injector, driver.kernel_sizes
        )
        # With the buffer size of the kernel's channel: INIT is answered on this channel, and libfuse derives the longest write
        # from its size.
        size = int(_fuse_chan_bufsize(self._channel))
        self._capture_channel = _fuse_chan_new(ctypes.byref(self._plus.operations), self.device, size, None)
        #: Bytes of the longest request. The kernel refuses a read with a shorter buffer.
        self.request_size = max(size, REQUEST_SIZE)
        #: True: requests read from now on are not carried out; their programs get an error when the process ends.
        self.closed = False
        # Opened at the start: at the end there may be no free descriptor.
        self._nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def _setup(self, mountpoint: str, options: str) -> Any:
        words = [b"jobfs", b"-f", b"-o", os.fsencode(options), os.fsencode(mountpoint)]
        arguments, table = (_path * len(words))(*words), self._table
        threads = _int()
        with TemporaryFile("w+", errors="replace") as output:
            with _redirect_stderr(output):
                session = self._kernel.setup(
                    len(words), arguments, ctypes.byref(table), ctypes.sizeof(table),
                    ctypes.byref(self._mountpoint), ctypes.byref(threads), None,
                )  # fmt: skip
            if not session:
                raise UsageError(f"could not mount: {output.read().strip() or 'libfuse gave no reason'}")
        return session

    def _process_own_request(self, address: int, length: int) -> None:
        """Make libfuse carry out a request of this process, and reply to it."""
        _fuse_session_process(self._session, address, length, self._capture_channel)

    def serve_requests(self, slot: WorkerSlot, token: ReadToken) -> bool:
        """Serve requests; return True once the file system is gone or `closed` is set, False if enough other threads are idle.

        Called by many threads, each with its own slot. Raises OSError if requests can't be read.
        """
        self._current.slot, buffers = slot, [slot.buffer]
        while slot.token or token.acquire(slot):
            length = self._receive(buffers)
            if length is None:
                return True
            if not length:
                continue
            slot.sequence += 1
            # Read after `sequence` has changed: who sets `closed` then sees either no request in progress, or this one.
            closed = self.closed
            if not closed:
                self._serve(slot, length)
            slot.sequence += 1
            if closed:
                return True
        return False

    def _receive(self, buffers: list[ctypes.Array[ctypes.c_char]]) -> int | None:
        """Read a request; return its length, 0 if there is none to serve, or None if the file system is gone."""
        try:
            return self._kernel.readv(self.device, buffers)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            if error.errno in _AGAIN:
                return 0
            raise

    def _serve(self, slot: WorkerSlot, length: int) -> None:
        """Reply to the request in the slot's buffer: at once if the reply is known, with EIO if serving it fails unexpectedly."""
        opcode, unique, node = HEAD.unpack_from(slot.buffer)
        slot.request = Request(opcode, node, self.operations.kernel_sizes.logical_clock)
        try:
            if self._injector.helpers and self._reply_to_helper(slot, opcode, length):
                return
            if opcode == Opcode.GETATTR and self._reply_from_cache(slot, unique, node):
                return
            start_call_deadline(self.operations.timeout)
            self._servers.get(opcode, self._process)(slot, length)
        except Exception:
            _log.exception("request %d (opcode %d) failed unexpectedly", unique, opcode)
            # The kernel refuses a second reply, so only a request without one gets this.
            write(self.device, REPLY_HEADER.pack(REPLY_HEADER.size, -errno.EIO, unique), REPLY_HEADER.size)

    def _process(self, slot: WorkerSlot, length: int) -> None:
        """Make libfuse carry out a request and send its reply."""
        _fuse_session_process(self._session, slot.address, length, self._channel)

    def _process_completed(self, slot: WorkerSlot, length: int) -> None:
        """Make libfuse carry out a request whose reply `ReplyFilter` completes and sends.

        `ReplyFilter` holds a reply back if the request must be repeated.
        """
        process, session, channel = _fuse_session_process, self._session, self._filter_channel
        request, address = slot.request, slot.address
        process(session, address, length, channel)
        while request.must_detach_node:
            self._plus.detach_node(slot, length)
            process(session, address, length, channel)
        while request.retry_handle:
            slot.flags.value, slot.getattr_handle.value, request.retry_handle = (
                _WITH_A_HANDLE,
                request.retry_handle,
                0,
            )
            process(session, address, length, channel)

    def _reply_from_cache(self, slot: WorkerSlot, unique: int, node: int) -> bool:
        """Reply to a getattr with cached attributes, if there are any; return whether it did.

        If not, mark its reply to be cached.
        """
        if slot.flags.value:  # it names a handle
            return False
        cache = self.operations.get_attr_cache()
        known = cache.get(node)
        if known is None:
            slot.request.attr_cache = cache
            return False
        self.operations.kernel_sizes.note_sent(node, size_in_reply(known), slot.request.began)
        reply = REPLY_HEADER.pack(REPLY_HEADER.size + len(known), 0, unique) + known
        if write(self.device, reply, len(reply)) < 0:
            self.operations.kernel_sizes.forget(node)  # its program got EINTR instead
        return True

    def _reply_to_helper(self, slot: WorkerSlot, opcode: int, length: int) -> bool:
        """Reply to the request if a helper made it; return whether one did."""
        if opcode == Opcode.RELEASE:
            return self._injected.reply_to_release(ctypes.string_at(slot.address, _RELEASE))
        if slot.thread not in self._injector.helpers:
            return False
        self._injected.reply(slot, ctypes.string_at(slot.address, length))
        return True

    def discard_replies(self) -> None:
        """Let no more replies reach the kernel. Once the process has ended, the kernel waits for none."""
        os.dup2(self._nowhere, self.device, inheritable=False)

    def close(self) -> None:
        """Free what libfuse holds, and unmount if still mounted. Call only after every loop has ended."""
        if self._fuse:
            _fuse_teardown(self._fuse, self._mountpoint)
            _fuse_chan_destroy(self._filter_channel)
            _fuse_chan_destroy(self._capture_channel)
            self._fuse = None
            os.close(self._nowhere)

    def _make_callbacks(self) -> _Operations:
        # A file that is open in a removed directory has no path. With flag_nullpath_ok its path is NULL; else its reads get
        # ENOENT.
        table = _Operations(flag_nullpath_ok=1, flag_utime_omit_ok=self.operations.flag_utime_omit_ok)
        for name, kind, *bits in _Operations._fields_:
            source = {"ftruncate": "truncate", "fgetattr": "getattr"}.get(name, name)
            if not bits and hasattr(kind, "argtypes") and getattr(self.operations, source, None):
                setattr(table, name, kind(_guard_callback(name, getattr(self, name))))
        return table

    # The frequent callbacks. Pointers are numbers, valid until the callback returns. The callbacks bypass the driver's
    # `__call__`: `_guard_callback` handles errors in the same way.

    def getattr(self, path: bytes, buffer: int) -> None:
        name, request, vfs = path.decode(), self._current.slot.request, self.operations.vfs
        if request.is_injected:
            ctypes.memmove(buffer, pack_stat(self._injector.attr_for_helper(to_vfs_path(name))), _STAT_SIZE)
            return
        stat = self.operations.getattr(name, listed=request.forbids_fetch)
        others = vfs.handles_on_other_versions(name[1:])
        request.is_attr_uncached = bool(others)
        if others and not any(handle.writable for handle in others):
            request.must_detach_node = request.opcode == Opcode.LOOKUP
            if request.opcode == Opcode.GETATTR:
                stat = pack_stat(vfs.attr_for_handle(others[0]))
        ctypes.memmove(buffer, stat, _STAT_SIZE)
        if request.attr_cache is not None and name not in request.attr_cache:
            request.attr_cache = None  # may change within the edition

    def fgetattr(self, path: int, buffer: int, info: int) -> None:
        ctypes.memmove(buffer, self.operations.getattr("", _info(info)), _STAT_SIZE)
        # This is the size of the open version; the next open may find another one.
        name, request = ctypes.string_at(path).decode()[1:] if path else "", self._current.slot.request
        request.is_attr_uncached = bool(self.operations.vfs.handles_on_other_versions(name))
        request.attr_cache = None  # may change within the edition: by a write, or by following a log

    def unlink(self, path: bytes) -> int:
        if self._current.slot.request.must_detach_node:
            self.operations.vfs.note_node_detached(to_vfs_path(path.decode()))
            return 0
        return int(super().unlink(path) or 0)

    def rmdir(self, path: bytes) -> int:
        return 0 if self._current.slot.request.is_injected else int(super().rmdir(path) or 0)

    def rename(self, old: bytes, new: bytes) -> int:
        if self._current.slot.request.is_injected:
            return self._move_node_of_event(to_vfs_path(old.decode()), to_vfs_path(new.decode()))
        return int(super().rename(old, new) or 0)

    def _move_node_of_event(self, old: str, new: str) -> int:
        """Make libfuse give the node its new name, so that the kernel keeps its pages.

        EBUSY if a program has another file at either path. The kernel holds the directories: no other call can change their names
        at the same time.
        """
        vfs = self.operations.vfs
        if vfs.is_open(old) or vfs.is_open(new) or not self._injector.has_moved(old, new):
            return -errno.EBUSY
        vfs.note_node_moved(old, new, directory=False)
        return 0

    def readdir(
        self, path: bytes | None, buffer: int, fill: Callable[..., int], offset: int, info: int
    ) -> None:
        if path is None:
            raise FsError(errno.ENOENT)
        # Offset 0 makes libfuse keep the whole listing.
        fill(buffer, b".", None, 0)
        fill(buffer, b"..", None, 0)
        for name, stat in self.operations.readdir(path.decode()):
            fill(buffer, name.encode(), stat, 0)

    def open(self, path: bytes, info: int) -> None:
        self.operations.open(path.decode(), _info(info))

    def release(self, path: int, info: int) -> None:
        self.operations.release(None, _info(info))

    def read(self, path: int, buffer: int, size: int, offset: int, info: int) -> int:
        data = self.operations.read(None, size, offset, _info(info))
        ctypes.memmove(buffer, data, min(len(data), size))
        return min(len(data), size)

    def write(self, path: int, buffer: int, size: int, offset: int, info: int) -> int:
        window = memoryview(_Window.from_address(buffer)).cast("B")
        with window[:size].toreadonly() as data:
            return int(self.operations.write(None, data, offset, _info(info)))


def _guard_callback(name: str, callback: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap `callback` for C: an error of any kind becomes a negative errno."""

    def guarded(*args: Any) -> int:
        try:
            return callback(*args) or 0
        except BaseException as error:
            return -errno_of(name, error)

    return guarded


class ReadToken:
    """The right to read requests, which one thread at a time has. `add_thread` starts another thread that acquires it."""

    def __init__(self, add_thread: Callable[[], None]) -> None:
        self._add_thread = add_thread
        self._free: SimpleQueue[bool] = SimpleQueue()
        self._idle: list[WorkerSlot] = []
        self._free.put(True)

    def acquire(self, slot: WorkerSlot) -> bool:
        """Wait until the slot's thread may read, and return True; return False at once if enough threads wait already."""
        if len(self._idle) >= IDLE_THREADS:
            return False
        self._idle.append(slot)
        right = self._free.get()
        self._idle.remove(slot)
        slot.token.append(right)
        return True

    def pass_on(self, slot: WorkerSlot) -> None:
        """Let another thread read, if the slot's thread has the right to: it may be about to wait."""
        if self.surrender(slot):
            self._ensure_reader()

    def revoke(self, slots: list[WorkerSlot]) -> None:
        """Let another thread read, if a thread of these slots has the right to: they have been waiting for a while."""
        for slot in slots:
            self.surrender(slot)
        self._ensure_reader()

    def _ensure_reader(self) -> None:
        if self._free.qsize() > len(self._idle):
            self._add_thread()

    def surrender(self, slot: WorkerSlot) -> bool:
        """Take the right to read from the slot's thread; return whether it had that right."""
        try:
            right = slot.token.pop()
        except IndexError:
            return False
        self._free.put(right)
        return True


class LoopPool:
    """The threads that serve a session. `on_end` is called once, when the kernel reports that the file system is gone.

    That is when it is unmounted and nothing in it is open. Calls may still be in progress then.
    """

    def __init__(self, session: Session, on_end: Callable[[], None]) -> None:
        self._session = session
        self._on_end = on_end
        self._lock = threading.Lock()
        self._ended = False
        self._token = ReadToken(self._add_thread)
        self._slots: list[WorkerSlot] = []
        self._threads: set[threading.Thread] = set()
        self._interrupter = Interrupter(session.device, self._slots, self._token.revoke)

    def start(self) -> None:
        """Start to serve. Block signals first: the threads inherit the mask."""
        self._add_thread()
        self._interrupter.start()

    def close(self, timeout: float) -> bool:
        """Begin no more calls, and wait up to `timeout` seconds for those in progress; after that no program gets a reply.

        Return whether all were answered. If not, the session can't be closed: the process must end.
        """
        self._session.closed = True
        end = time.monotonic() + timeout
        with self._lock:
            slots = list(self._slots)  # a thread that starts later begins no call
        while any(slot.sequence % 2 for slot in slots):
            if time.monotonic() > end:
                self._session.discard_replies()
                return False
            time.sleep(_POLL_INTERVAL)
        return True

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for every thread to end; return whether all have."""
        self._interrupter.stop()
        end = time.monotonic() + timeout
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _add_thread(self) -> None:
        """Add a thread, unless the session has ended or there are too many: all others may be waiting for the server."""
        with self._lock:
            if self._ended or len(self._threads) >= _MOST_THREADS:
                return
            slot = WorkerSlot(self._session.request_size)
            thread = threading.Thread(
                target=self._serve, args=(slot,), name=f"fuse-{len(self._threads)}", daemon=True
            )
            # Registered before it runs: the last thread to end reports the end of the mount.
            self._threads.add(thread)
            self._slots.append(slot)
            try:
                thread.start()
            except RuntimeError as error:
                self._threads.remove(thread)
                self._slots.remove(slot)
                _log.warning("no thread for another request: %s", error)

    def _serve(self, slot: WorkerSlot) -> None:
        gone = False
        set_blocking_hook(lambda: self._token.pass_on(slot))
        try:
            gone = self._session.serve_requests(slot, self._token)
        except OSError as error:
            _log.error("a thread of the mount could not read requests, and ends: %s", error)
        finally:
            with self._lock:
                self._threads.remove(threading.current_thread())
                self._slots.remove(slot)
                reports_end = (gone or not self._threads) and not self._ended
                self._ended = self._ended or reports_end
            self._token.surrender(slot)
            if reports_end:
                self._on_end()


@contextlib.contextmanager
def _redirect_stderr(file: IO[str]) -> Iterator[None]:
    """Redirect what C code writes to stderr into a file. No other thread may run."""
    saved = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        file.seek(0)
