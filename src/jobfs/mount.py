"""One mount from its first request to its last: run, drain, unmount (semantics.md section 6).

The main thread waits for a reason to end: a signal, `jobfs umount` over the control socket, or the file
system being unmounted from outside. Signals are blocked in every thread and taken by one that only waits for
them, so that none ever interrupts a callback.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from jobfs.control import Conversation, Handler, Server
from jobfs.errors import JobfsError, UsageError
from jobfs.settings import Settings
from jobfs.state.directory import StateDirectory, others
from jobfs.state.quarantine import damaged

if TYPE_CHECKING:
    from jobfs.fuseloop import LoopPool, Session
    from jobfs.vfs import Vfs

_log = logging.getLogger("jobfs.mount")

_STOPPING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

#: Seconds: for the kernel to greet a new mount; for programs that just look to leave before it is detached;
#: for callbacks in flight to end once it is unmounted; before the user is told that a drain takes a moment.
_GREETING, _BUSY_PATIENCE, _LAST_CALLBACKS, _QUIET = 10.0, 1.0, 5.0, 0.3
#: Seconds between looks whether a drain is still wanted.
_LOOK = 0.1


class BusyError(JobfsError):
    """Something in the mounted directory is open, or is some program's current directory."""

    errno = errno.EBUSY


@dataclass(frozen=True)
class Mounted:
    """What a mount serves; `answering`: whether the server does; `handlers`: of further control calls."""

    vfs: Vfs
    answering: Callable[[], bool] = lambda: True
    close: Callable[[], None] = lambda: None
    handlers: Mapping[str, Handler] = field(default_factory=dict)


class _Leave(NamedTuple):
    """A reason to end, after a drain that left `left`; `outcome` gets how it went, or what prevents it."""

    why: str
    left: Sequence[Any] = ()
    outcome: queue.SimpleQueue[dict[str, Any] | JobfsError] | None = None


def run(
    settings: Settings,
    slot: StateDirectory,
    build: Callable[[], Mounted],
    say: Callable[[str], None],
    on_mounted: Callable[[], None],
) -> int:
    """Mount what `build` makes at the slot's directory and serve it until it is unmounted. Main thread only.

    `say` shows the user a sentence; `on_mounted` is called once it answers. The exit code is 0 if the server
    has everything at the end, else 1. Raises UsageError if it can't be mounted; then nothing is. May end the
    process by itself, when a call that nobody can wait for is still in flight.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    mount = Mount(settings, slot, say)
    mount.start(build)
    on_mounted()
    return mount.serve()


class Mount:
    """A mount and the reasons to end it; see `run`."""

    def __init__(self, settings: Settings, slot: StateDirectory, say: Callable[[str], None]) -> None:
        self._settings, self._slot, self._say = settings, slot, say
        self._directory = slot.record.directory
        self._reasons: queue.SimpleQueue[_Leave] = queue.SimpleQueue()
        self._signals = 0
        self._serving = False
        self._left: list[Any] = []
        self._note = ""
        threading.Thread(target=self._take_signals, name="signals", daemon=True).start()

    def start(self, build: Callable[[], Mounted]) -> None:
        """Build, mount, and return once the kernel and the control socket are answered."""
        self._mounted = mounted = build()
        try:
            mounted.vfs.start()
            for warning in mounted.vfs.warnings:
                self._say(warning)
            self._server = Server(self._slot.path, {**self._handlers(mounted.vfs), **mounted.handlers})
            try:
                self._session, self._pool = self._mount(mounted.vfs)
            except BaseException:
                self._server.close()
                raise
        except BaseException:
            mounted.vfs.stop()
            mounted.close()
            raise

    def serve(self) -> int:
        """Wait for a reason to end, drain, unmount, and put everything away."""
        reason = self._reasons.get()
        while not self._leave(reason):
            reason = self._reasons.get()
        if not self._left:
            # What was closed since the last look, and everything if it was unmounted from outside.
            self._left = self._drain(None, None, self._interrupted())
        if reason.outcome is not None:
            reason.outcome.put({"left": self._left, "note": self._note})
        ended = self._pool.join(_LAST_CALLBACKS)
        self._mounted.vfs.stop()
        if not self._left:
            self._mounted.vfs.empty_trash()
        self._mounted.close()
        self._server.close()
        self._slot.write_record(clean=not self._left)
        if self._left:
            self._say(f"not sent yet, kept for the next mount of this job: {describe(self._left)}")
        code = 1 if self._left else 0
        if not ended:
            _log.warning("a call was still in flight at the end")
            logging.shutdown()
            os._exit(code)
        self._session.close()
        self._slot.close()
        return code

    def _mount(self, vfs: Vfs) -> tuple[Session, LoopPool]:
        from jobfs.driver import FuseDriver, XattrDriver
        from jobfs.fuseloop import LoopPool, Session
        from jobfs.interruption import interruptible

        greeted = threading.Event()
        self._serving = True
        options = mount_options(self._settings, self._slot.record.job)
        driver = XattrDriver if self._settings.xattr else FuseDriver
        session = Session(driver(vfs, greeted.set), self._directory, options)
        ended = interruptible(sync_on_close=self._settings.sync_on_close)
        pool = LoopPool(session, lambda: self._reasons.put(_Leave("it was unmounted")), ended)
        pool.start()
        if not greeted.wait(_GREETING):
            unmount(self._directory, lazy=True)
            raise UsageError("the kernel does not talk to the new mount: see `dmesg`")
        return session, pool

    def _take_signals(self) -> None:
        """Signals are blocked everywhere and waited for here. Before anything is mounted one just ends us."""
        while True:
            number = signal.sigwait(_STOPPING)
            if not self._serving:
                os._exit(128 + number)
            self._signals += 1
            self._reasons.put(_Leave(signal.Signals(number).name))

    def _interrupted(self) -> Callable[[], bool]:
        """A function that tells whether a signal came after this call."""
        before = self._signals
        return lambda: self._signals > before

    def _leave(self, reason: _Leave) -> bool:
        """Act on a reason to end; True if that is the end."""
        _log.info("ending: %s", reason.why)
        if reason.outcome is not None:
            try:
                self._note = detach(self._directory)
                self._left = list(reason.left)
            except JobfsError as error:
                reason.outcome.put(error)
                return False
        elif reason.why in signal.Signals.__members__:
            self._left = self._drain(None, self._tell_waiting(), self._interrupted())
            try:
                note = detach(self._directory)
            except JobfsError as error:
                note = str(error)
            if note:
                self._say(note)
        return True

    def _drain(
        self,
        timeout: float | None,
        progress: Callable[[int, int], None] | None,
        cancelled: Callable[[], bool],
        path: str | None = None,
    ) -> list[Any]:
        return drain(self._mounted, path, timeout, progress, cancelled, self._settings.timeout)

    def _tell_waiting(self) -> Callable[[int, int], None]:
        """A progress callback that tells the user once that this will take a moment."""
        began, told = time.monotonic(), False

        def progress(done: int, total: int) -> None:
            nonlocal told
            if not told and done < total and time.monotonic() - began > _QUIET:
                told = True
                self._say(f"sending {total - done} unsent files; once more leaves them for the next mount")

        return progress

    # What the control socket answers

    def _handlers(self, vfs: Vfs) -> dict[str, Handler]:
        return {
            "status": lambda args, conversation: {**self._facts(), **vfs.status()},
            "info": lambda args, conversation: vfs.info(str(args["path"])),
            "set": lambda args, conversation: vfs.set(str(args.pop("path")), args),
            "flush": self._answer_flush,
            "umount": self._answer_umount,
            "retry": lambda args, conversation: {"paths": vfs.retry(args.get("path"))},
            "discard": lambda args, conversation: {"given_up": vfs.discard(str(args["path"]))},
        }

    def _facts(self) -> dict[str, Any]:
        record = self._slot.record
        unfinished = others(self._settings.state_dir, record.job, record.mount_id)
        return {
            "job_id": record.job,
            "directory": record.directory,
            "base_url": record.base_url,
            "pid": record.pid,
            "mounted_at": record.started,
            "state_dir": str(self._slot.path),
            "read_only": self._settings.read_only,
            "damaged": [str(path) for path in damaged(self._slot.path)],
            "other_slots": [
                {"path": str(found.path), "directory": found.record.directory if found.record else None}
                for found in unfinished
                if not (found.record and found.record.clean)
            ],
        }

    def _answer_flush(self, args: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
        left = self._drain(args.get("timeout"), conversation.progress, conversation.gone, args.get("path"))
        return {"left": left}

    def _answer_umount(self, args: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
        """Drain and unmount; who hangs up meanwhile has thought better of it."""
        left = self._drain(args.get("timeout"), conversation.progress, conversation.gone)
        if conversation.gone():
            return {}
        outcome: queue.SimpleQueue[dict[str, Any] | JobfsError] = queue.SimpleQueue()
        self._reasons.put(_Leave("umount was asked for", left, outcome))
        result = outcome.get()
        if isinstance(result, JobfsError):
            raise result
        return result


def drain(
    mounted: Mounted,
    path: str | None,
    timeout: float | None,
    progress: Callable[[int, int], None] | None,
    cancelled: Callable[[], bool],
    patience: float,
) -> list[Any]:
    """Send what is unsent (at or below `path`); what is left when that ends, or after `timeout` seconds.

    It also ends once `cancelled()`, or when the server has not answered for `patience` seconds.
    """
    results: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()

    def flush() -> None:
        try:
            results.put(list(mounted.vfs.flush_all(path, timeout, progress)))
        except Exception as error:
            results.put([f"sending failed: {error}"])

    threading.Thread(target=flush, name="drain", daemon=True).start()
    silent_since: float | None = None
    while True:
        with contextlib.suppress(queue.Empty):
            return results.get(timeout=_LOOK)
        now = time.monotonic()
        silent_since = None if mounted.answering() else silent_since or now
        if cancelled() or (silent_since is not None and now - silent_since > patience):
            return list(mounted.vfs.flush_all(path, 0.0, None))


def mount_options(settings: Settings, job: str) -> list[str]:
    """libfuse's options for a mount; the kernel's timeouts count into the TTL (semantics.md section 1)."""
    options = [
        f"fsname=jobfs:{job}",
        "subtype=jobfs",
        "use_ino",
        "default_permissions",
        "big_writes",
        # O_TRUNC arrives with open, so that what is thrown away is not fetched first.
        "atomic_o_trunc",
        f"attr_timeout={settings.kernel_timeout:g}",
        f"entry_timeout={settings.kernel_timeout:g}",
        "negative_timeout=0",
    ]
    return options + ["ro"] * settings.read_only + ["allow_other"] * settings.allow_other


def detach(directory: str) -> str:
    """Unmount; if something stays open there, lazily. What the user should know of it, or "".

    Raises JobfsError if the kernel refuses either.
    """
    end = time.monotonic() + _BUSY_PATIENCE
    while True:
        try:
            unmount(directory)
            return ""
        except BusyError:
            if time.monotonic() >= end:
                break
            time.sleep(0.05)
    users = ", ".join(users_of(directory)) or "some program"
    unmount(directory, lazy=True)
    return f"{directory} was in use by {users}; it was detached, and files still open there are cut off"


def unmount(directory: str, *, lazy: bool = False) -> None:
    """Unmount `directory`, stale or not; no error if nothing is mounted there.

    Raises BusyError if something is open there and it is not `lazy`, JobfsError if it can't be done.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        failed = libc.umount2(os.fsencode(directory), flags)
        code = ctypes.get_errno() if failed else 0
        reason = os.strerror(code)
    else:
        command = shutil.which("fusermount") or shutil.which("fusermount3")
        if command is None:
            raise UsageError("fusermount is missing: install fuse3 (or fuse)")
        words = [command, "-u", *(["-z"] if lazy else []), "--", directory]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        reason = done.stderr.strip()
        code = errno.EBUSY if "busy" in reason else errno.EINVAL if "not found" in reason else done.returncode
    if code == errno.EBUSY and not lazy:
        raise BusyError(f"{directory} is in use")
    if code not in (0, errno.EINVAL):
        raise JobfsError(f"could not unmount {directory}: {reason}")


def users_of(directory: str) -> list[str]:
    """Programs seen to use something in `directory`, as "name (pid)"; asks nothing of the mount itself."""
    users = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        base = f"/proc/{pid}"
        with contextlib.suppress(OSError):
            links = [f"{base}/cwd", f"{base}/root", *(f"{base}/fd/{fd}" for fd in os.listdir(f"{base}/fd"))]
            if int(pid) != os.getpid() and any(_leads_into(link, directory) for link in links):
                with open(f"{base}/comm") as name:
                    users.append(f"{name.read().strip()} ({pid})")
    return users


def _leads_into(link: str, directory: str) -> bool:
    try:
        return f"{os.readlink(link)}/".startswith(f"{directory}/")
    except OSError:
        return False


def describe(left: Sequence[Any], most: int = 10) -> str:
    """The paths in a list of what is unsent, in one line."""
    names = [str(entry.get("path", entry)) if isinstance(entry, dict) else str(entry) for entry in left]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
