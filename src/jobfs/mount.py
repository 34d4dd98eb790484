"""One mount from its first request to its last: run, drain, unmount (vfs/semantics.md 6).

A mount is over when the kernel reports that it is unmounted and nothing in it is open. A signal, `jobfs umount` over the control
socket, or umount(8) only unmounts it, and the main thread waits until it is over. All files are closed then, so the last drain
misses none.

Signals are blocked in all threads, and one thread waits for them, so that no signal interrupts a callback.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jobfs.api.deadline import limit_time
from jobfs.background import Background
from jobfs.control import ControlServer, Conversation, Handler
from jobfs.document import Unsent, describe_kept
from jobfs.errors import JobfsError, UsageError
from jobfs.mountpoint import (
    BusyError,
    MountInfo,
    check_is_empty,
    describe_programs,
    find_mount_at,
    find_programs_using,
    list_mounts,
    run_bounded,
    unmount,
)
from jobfs.nodes import SendProgress, Version
from jobfs.process import notify_manager
from jobfs.settings import Settings, shell_command
from jobfs.state.directory import StateDirectory

if TYPE_CHECKING:
    from jobfs.fuse.loop import LoopPool, Session
    from jobfs.vfs import Vfs

_log = logging.getLogger("jobfs.mount")

#: The signals that end a mount, unless they were ignored when it was started, as nohup does.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Time limits, in seconds: for the kernel's first request to a new mount; for programs that use the mount only briefly, before
#: umount is refused; for callbacks in flight, once the mount is over.
_GREETING, _BUSY_PATIENCE, _LAST_CALLBACKS = 10.0, 1.0, 5.0
#: The seconds between two checks of other threads and programs.
_POLL_INTERVAL = 0.1
#: How long threads that nothing blocks may take to end, in seconds.
_INSTANT = 0.5
#: How long a server may be silent before a command that waits for it says so, in seconds.
_SILENCE = 3.0


#: The progress of a drain that has not begun, or has no files.
_NOTHING = SendProgress(0, 0)


@dataclass(frozen=True)
class MountParts:
    """The file system that a mount serves. `abort_requests` ends all requests in flight; `close` closes what `build` opened."""

    vfs: Vfs
    abort_requests: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None


def run_mount(
    settings: Settings,
    place: StateDirectory,
    build: Callable[[], MountParts],
    say: Callable[[str], None],
    on_mounted: Callable[[], None],
) -> int:
    """Mount what `build` makes, at the directory in the record of `place`, and serve it until it is over. Main thread only.

    `say` shows the user a sentence; `on_mounted` is called once the mount answers. Returns the exit code: 0 if the server has
    everything at the end, else 1. Raises UsageError if mounting fails; then nothing is mounted. Ends the process itself, with
    that code, if a call is still in flight at the end.
    """
    stopping = frozenset(number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN)
    # SIGPIPE too: libfuse's teardown restores its default, and the next write to a closed pipe would kill the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping | {signal.SIGPIPE})
    mount = Mount(settings, place, say, stopping)
    mount.start(build)
    try:
        return mount.serve(on_mounted)
    except BaseException:
        mount.abandon()
        raise


class Mount:
    """A mount and the reasons to end it; see `run_mount`."""

    def __init__(
        self,
        settings: Settings,
        place: StateDirectory,
        say: Callable[[str], None],
        stopping: frozenset[signal.Signals],
    ) -> None:
        """`stopping`: the signals that end the mount; they are blocked in all threads."""
        self._settings, self._place, self._say, self._stopping = settings, place, say, stopping
        #: Why the mount should end: the name of a signal, or a phrase; "" once it is over.
        self._reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._unmounted = threading.Event()
        self._signals = 0
        self._serving = False
        #: The mount that was at its directory before, if any.
        self._previous_mount: MountInfo | None = None
        self._detaching = threading.Lock()
        #: When everything must be over (monotonic time), as the caller of umount has set it; None for no limit.
        self._end_deadline: float | None = None
        self._progress = _NOTHING
        # Removed, so that child processes do not inherit it: they are not the service.
        self._manager = os.environ.pop("NOTIFY_SOCKET", None)
        self._is_finished = threading.Event()
        self._unsent: list[Unsent] = []
        Background("signals", self._wait_for_signal, retry=_POLL_INTERVAL).start()

    @property
    def _directory(self) -> str:
        """The mount point that was asked for."""
        return self._place.record.directory

    def start(self, build: Callable[[], MountParts]) -> None:
        """Build the parts, mount, and return once the kernel and the control socket get answers. Raises UsageError."""
        self._parts = mounted = build()
        self._drain = partial(drain, mounted.vfs, self._settings.timeout)
        try:
            with limit_time():
                mounted.vfs.start()
            for warning in mounted.vfs.warnings:
                self._say(warning)
            for line in mounted.vfs.taken_up:
                _log.warning("taken up: %s", line)
            self._session, self._pool, self._mount_info = self._mount(mounted.vfs)
            self._notifier.start()
            self._control_server = ControlServer(self._place.path, self._make_handlers(mounted.vfs))
        except BaseException:
            self.abandon()
            mounted.vfs.stop()
            mounted.close()
            raise

    def abandon(self) -> None:
        """Detach the mount after an error, so that no dead mount is left. Raises nothing."""
        with contextlib.suppress(JobfsError, OSError):
            current = find_mount_at(self._directory)
            if self._serving and current is not None and current != self._previous_mount:
                unmount(self._directory, lazy=True)

    def serve(self, on_mounted: Callable[[], None]) -> int:
        """Wait until the mount is over, send what is unsent, answer callers of umount, and close everything.

        Returns the exit code.
        """
        self._announce_ready(on_mounted)
        end = self._wait_and_detach_if_signalled()
        notify_manager(self._manager, "STOPPING=1")
        self._notifier.stop()
        over = self._unmounted.is_set()
        answered = self._pool.close(_seconds_until(end, _LAST_CALLBACKS))
        self._drain_at_end(None if end is None else _seconds_until(end))
        stopped = _run_within(self._parts.vfs.stop, _seconds_until(end, self._settings.timeout))
        ended = over and answered and stopped and self._pool.join(_INSTANT)
        self._close_everything(stopped=stopped)
        code = 1 if self._unsent else 0
        if not ended:
            if not (answered and stopped):
                _log.warning("a call was still in flight at the end")
            os._exit(code)
        self._session.close()
        self._place.close()
        return code

    def _announce_ready(self, on_mounted: Callable[[], None]) -> None:
        """Report that the mount is ready, to the service manager and to the process that waits for the mount."""
        notify_manager(self._manager, "READY=1", f"MAINPID={os.getpid()}")
        try:
            on_mounted()
        except BrokenPipeError:
            self._reasons.put("the process that waited for the mount has ended")
        except OSError as error:
            _log.warning("can't report that the mount is ready: %s", error)

    def _drain_at_end(self, timeout: float | None) -> None:
        """Send what is unsent, for `timeout` seconds at most or until a signal; note what remains, and say so to the user."""
        self._unsent = self._drain(timeout, self._note_progress, self._make_signal_detector())
        self._is_finished.set()
        if self._unsent:
            # Requests that still wait for the server would only delay the end.
            self._parts.abort_requests()
            self._say(describe_kept(self._unsent))

    def _close_everything(self, *, stopped: bool) -> None:
        """Close what was opened for the mount; `stopped`: no thread of the file system runs any longer."""
        clean = not (self._unsent or self._parts.vfs.earlier_unsent_count)
        if stopped:
            if clean:
                self._parts.vfs.empty_trash()
            self._parts.close()
        self._control_server.close()
        # Written last. If this fails, the next mount looks for unsent work, and may find none.
        try:
            self._place.write_record(clean=clean)
        except UsageError as error:
            _log.warning("%s", error)

    def _mount(self, vfs: Vfs) -> tuple[Session, LoopPool, MountInfo]:
        from jobfs.fuse.driver import FuseDriver
        from jobfs.fuse.loop import LoopPool, Session
        from jobfs.live import ChangeNotifier

        greeted = threading.Event()
        self._previous_mount = find_mount_at(self._directory)
        self._serving = True
        options = libfuse_options(self._settings, self._place.record.job)
        driver = FuseDriver(vfs, greeted.set, self._settings.timeout)
        try:
            session = Session(driver, self._directory, options)
        except UsageError:
            check_is_empty(self._directory)  # a program may have written there since a dead mount was removed
            raise
        here = find_mount_at(self._directory)
        pool = LoopPool(session, self._on_unmounted)
        pool.start()
        if here is not None:
            driver.injector.mount = (here.point, os.makedev(*map(int, here.device.split(":"))))
        # On a read-only mount, the kernel refuses the calls that produce events.
        events = not (self._settings.no_watch or self._settings.read_only)
        self._notifier = ChangeNotifier(vfs, driver.injector, events=events, timeout=self._settings.timeout)
        if here is None or not greeted.wait(_GREETING):
            raise UsageError("the kernel sends no requests to the new mount: see `dmesg`")
        return session, pool, here

    def _on_unmounted(self) -> None:
        """Note that the mount is over: the kernel reports that it is unmounted, and that nothing in it is open."""
        self._unmounted.set()
        self._reasons.put("")

    # Signals

    def _wait_for_signal(self) -> float:
        """Wait for a signal, and make it a reason to end. A signal before anything is mounted ends the process."""
        number = signal.sigwait(self._stopping)
        if not self._serving:
            os._exit(128 + number)
        self._signals += 1
        self._reasons.put(signal.Signals(number).name)
        return 0.0

    def _make_signal_detector(self) -> Callable[[], bool]:
        """Return a function that checks whether a signal has arrived since this call."""
        before = self._signals
        return lambda: self._signals > before

    def _wait_and_detach_if_signalled(self) -> float | None:
        """Wait until the mount is over; after a signal, drain and detach. Return when all must be done (monotonic time)."""
        if not (reason := self._reasons.get()):
            return self._end_deadline
        _log.info("ending: %s", reason)
        notify_manager(self._manager, "STOPPING=1")
        return self._drain_and_detach(self._make_signal_detector())

    def _drain_and_detach(self, is_signalled: Callable[[], bool]) -> float:
        """Drain and wait for open files after a signal, for `timeout` seconds, or until the next signal (`is_signalled`).

        Returns when everything must be done (monotonic time): after twice the time-out at most.
        """
        patience, began = self._settings.timeout, time.monotonic()
        if unsent := len(self._parts.vfs.list_unsent()):
            self._say(f"sending unsent files ({unsent}); a second signal leaves them for the next mount")
        self._drain(patience, self._note_progress, is_signalled)
        self._detach_when_idle(began + patience, is_signalled)
        # Files that are still open are served for longer, but the last drain and the end need a part of the time.
        while not (
            is_signalled()
            or time.monotonic() >= began + 1.5 * patience
            or self._unmounted.wait(_POLL_INTERVAL)
        ):
            pass
        if not self._unmounted.wait(_INSTANT):
            self._say(
                f"{self._directory} was in use by {self._describe_users()}: files still open there are cut off"
            )
        return time.monotonic() if is_signalled() else began + 2 * patience - min(1.0, patience / 4)

    def _detach_when_idle(self, end: float, is_signalled: Callable[[], bool]) -> None:
        """Unmount once nothing is open, or detach at `end` or once `is_signalled()`; say which programs are waited for."""
        has_said_busy = False
        while not self._unmounted.wait(_POLL_INTERVAL if has_said_busy else 0):
            last = is_signalled() or time.monotonic() >= end
            try:
                self._detach(lazy=last)
                return
            except BusyError:
                if last:
                    return  # something is mounted over it
                if not has_said_busy:
                    has_said_busy = True
                    self._say(
                        f"{self._directory} is in use by {self._describe_users()}: waiting for {_seconds_until(end):.0f} s; "
                        "a second signal cuts them off"
                    )
            except JobfsError as error:
                self._say(str(error))
                return

    # Unmounting

    def _find_mount(self) -> MountInfo | None:
        """Return this mount, even if a directory above it was renamed; None if it is unmounted."""
        # Not once it is over: another mount may have its numbers then.
        found = () if self._unmounted.is_set() else list_mounts()
        own = (self._mount_info.number, self._mount_info.device)
        return next((mount for mount in found if (mount.number, mount.device) == own), None)

    def _detach(self, *, lazy: bool, end: float | None = None) -> None:
        """Unmount this mount, if it is still mounted; `end`: when everything must be over. Raises JobfsError, BusyError."""
        with self._detaching:
            if (own := self._find_mount()) is not None:
                if find_mount_at(own.point) != own:
                    raise BusyError(f"{own.point} is covered by another mount: unmount that first")
                before, self._end_deadline = self._end_deadline, end
                try:
                    unmount(own.point, lazy=lazy)
                except BaseException:
                    self._end_deadline = before
                    raise

    def _describe_users(self) -> str:
        """Return a phrase with the programs that use the mount."""
        return describe_programs(find_programs_using(self._mount_info))

    def _wait_while_busy(self, is_used: Callable[[], bool]) -> None:
        """Wait until `is_used()` is false. Raises BusyError, which names the programs, after `_BUSY_PATIENCE` seconds."""
        patient_until = time.monotonic() + _BUSY_PATIENCE
        while is_used():
            if time.monotonic() >= patient_until:
                raise BusyError(
                    f"{self._directory} is in use by {self._describe_users()}: close the files that are open there, "
                    f"or detach it with {shell_command('umount', '--lazy', self._directory)}"
                )
            time.sleep(0.05)

    def _try_detach(self, end: float | None) -> bool:
        try:
            self._detach(lazy=False, end=end)
        except BusyError:
            return False
        return True

    def _answer_umount(self, args: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
        """Drain and unmount, or if `lazy` detach and drain; answer when all is sent, or after `timeout` seconds.

        If the caller hangs up before the unmount, or this raises BusyError, the mount stays.
        """
        timeout = args.get("timeout")
        end = None if timeout is None else time.monotonic() + timeout
        waiting = DrainReporter(self._parts.vfs, conversation)
        if args.get("lazy"):
            self._detach(lazy=True)
        elif self._find_mount():
            # Checked before the drain, which may take long.
            self._wait_while_busy(lambda: bool(find_programs_using(self._mount_info)))
            self._drain(timeout, waiting, conversation.has_hung_up)
            if conversation.has_hung_up():
                return {}
            self._wait_while_busy(lambda: not self._try_detach(end))
            # The drain at the end has a time limit of its own, within this.
            end = None if end is None else end + _LAST_CALLBACKS
        if not self._unmounted.wait(_BUSY_PATIENCE):
            conversation.send_sentence(
                f"{self._directory} is detached; the mount ends when the files open there are closed and sent: "
                f"{self._describe_users()}"
            )
        return self._answer_when_finished(end, conversation, waiting)

    def _answer_when_finished(
        self, end: float | None, conversation: Conversation, reporter: DrainReporter
    ) -> dict[str, Any]:
        while not self._is_finished.wait(_POLL_INTERVAL):
            if conversation.has_hung_up():
                return {}
            reporter(self._progress)
            if end is not None and time.monotonic() > end + _INSTANT:
                programs = find_programs_using(self._mount_info)
                return {
                    "left": self._parts.vfs.list_unsent(),
                    "goes_on": os.getpid(),
                    "open": describe_programs(programs) if programs else "",
                }
        return {"left": self._unsent}

    def _note_progress(self, sent: SendProgress) -> None:
        """Note the progress of the drain at the end, for the callers that wait for it."""
        self._progress = sent

    # What the control socket answers

    def _make_handlers(self, vfs: Vfs) -> dict[str, Handler]:
        # Most calls have a deadline, as a system call has.
        in_time = limit_time(self._settings.timeout)
        return {
            "status": in_time(lambda args, conversation: vfs.status()),
            "info": in_time(lambda args, conversation: vfs.info(str(args["path"]))),
            "set": in_time(
                lambda args, conversation: vfs.upload_then_set_attributes(str(args.pop("path")), args)
            ),
            "retry": in_time(lambda args, conversation: {"paths": vfs.retry(args.get("path"))}),
            "discard": in_time(lambda args, conversation: {"given_up": vfs.discard(str(args["path"]))}),
            "forget": lambda args, conversation: {"known": vfs.drop_save_copy(str(args["path"]))},
            "put_back": in_time(
                lambda args, conversation: vfs.note_restore(str(args["path"]), int(args["pid"]))
            ),
            "unlink_version": in_time(lambda args, conversation: {"done": _unlink_if_version(vfs, **args)}),
            "flush": self._answer_flush,
            "watch": self._answer_watch,
            "wait": self._answer_wait,
            "umount": self._answer_umount,
        }

    def _answer_flush(self, args: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
        path = args.get("path")
        with limit_time(self._settings.timeout):
            if path:
                self._parts.vfs.getattr(path)  # raises if it is misspelled, or below a local symbolic link
        waiting = DrainReporter(self._parts.vfs, conversation, path)
        left = self._drain(args.get("timeout"), waiting, conversation.has_hung_up, path)
        return {"left": left}

    def _answer_watch(self, args: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
        """Send the changes at or below `path` until the caller hangs up or does not read, or the mount has ended."""
        top = str(args["path"])
        if top:
            with limit_time(self._settings.timeout):
                self._parts.vfs.getattr(top)  # raises if it is misspelled
        self._notifier.follow(
            top, conversation.send_event, lambda: self._is_finished.is_set() or conversation.has_hung_up()
        )
        return {}

    def _answer_wait(self, args: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
        """Wait until the job has ended (vfs/semantics.md 7, jobfs wait).

        In the answer, `job` is null after `timeout` seconds, or if `mounted` is false. If the caller hangs up, the wait ends.
        """

        def cancelled() -> bool:
            return conversation.has_hung_up() or self._find_mount() is None

        job = self._parts.vfs.wait_for_job(args.get("timeout"), conversation.send_sentence, cancelled)
        return {"job": job, "mounted": self._find_mount() is not None}


class DrainReporter:
    """The reporter of a drain at or below `path`: of its progress, and once of a silent server (vfs/semantics.md 6.17)."""

    def __init__(
        self,
        vfs: Vfs,
        conversation: Conversation,
        path: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vfs, self._conversation, self._path, self._clock = vfs, conversation, path, clock
        self._last_progress, self._progress_at, self._has_reported_silence = _NOTHING, clock(), False

    def __call__(self, sent: SendProgress) -> None:
        """Send the progress if it has changed, and say once that the server is silent. Called several times a second."""
        if sent not in (self._last_progress, _NOTHING):
            self._last_progress, self._progress_at = sent, self._clock()
            self._conversation.send_progress(sent)
        if self._has_reported_silence or self._clock() - self._progress_at < _SILENCE:
            return
        if why := self._vfs.silence_predicate(self._clock() - _SILENCE):
            self._has_reported_silence = True
            self._conversation.send_sentence(
                f"waiting for the server, which {why}: {self._describe_unsent()}; Ctrl-C ends the waiting"
            )

    def _describe_unsent(self) -> str:
        count = len(self._vfs.list_unsent(self._path))
        if not count:
            return "everything is sent, but replaced versions are not yet deleted there"
        return f"{count} file{'s are' if count > 1 else ' is'} unsent"


def drain(
    vfs: Vfs,
    patience: float,
    timeout: float | None,
    progress: Callable[[SendProgress], None],
    cancelled: Callable[[], bool],
    path: str | None = None,
) -> list[Unsent]:
    """Send everything unsent, or what is at or below `path`; return what is left when that ends, or after `timeout` seconds.

    It also ends once `cancelled()` is true, or after 1.25 times `patience` seconds without progress: an attempt fails after
    `patience` seconds without progress, and the next one has begun by then.
    """
    files, size, moved = 0, 0, time.monotonic()

    def going_on(sent: SendProgress) -> None:
        nonlocal files, size, moved
        # Once nothing is unsent, only asides are cleaned up, which has a time limit of its own.
        cleaning = sent.files == sent.all_files and not vfs.list_unsent(path)
        if sent.files > files or sent.bytes > size or cleaning:
            files, size, moved = max(sent.files, files), max(sent.bytes, size), time.monotonic()
        if cancelled() or time.monotonic() - moved >= 1.25 * patience:
            raise InterruptedError
        progress(sent)

    try:
        return vfs.flush_all(path, timeout, going_on)
    except InterruptedError:
        pass
    except Exception:
        _log.exception("sending failed")
    return vfs.list_unsent(path)


def _unlink_if_version(vfs: Vfs, path: str, version: Sequence[Any], sha256: str) -> bool:
    item_id, updated_at, size = version
    return vfs.unlink_if_version(path, Version(str(item_id), str(updated_at), int(size)), sha256)


def libfuse_options(settings: Settings, job: str) -> list[str]:
    """Return libfuse's options for a mount; the kernel's time-outs are a part of the TTL (vfs/semantics.md 1)."""
    options = [
        # The source as fstab has it, so that `mount -a` finds the job mounted.
        f"fsname={job}",
        "subtype=jobfs",
        "use_ino",
        "default_permissions",
        "big_writes",
        # A read of 1 MiB costs three times as much as eight of 128 KiB: its buffers are allocated and freed by system calls.
        "max_read=131072",
        # Without this, libfuse renames a file that is unlinked while it is open, instead of passing on the unlink.
        "hard_remove",
        # Passes O_TRUNC to open, so that no bytes are fetched only to be truncated.
        "atomic_o_trunc",
        f"attr_timeout={settings.kernel_timeout:g}",
        f"entry_timeout={settings.kernel_timeout:g}",
        "negative_timeout=0",
    ]
    options += ["noexec"] * settings.noexec
    return options + ["ro"] * settings.read_only + ["allow_other"] * settings.allow_other


def _seconds_until(end: float | None, max_seconds: float = float("inf")) -> float:
    """Return the seconds until `end` (monotonic time; None: never), at most `max_seconds`; 0.0 if `end` has passed."""
    return max_seconds if end is None else max(min(end - time.monotonic(), max_seconds), 0.0)


def _run_within(work: Callable[[], object], timeout: float) -> bool:
    """Run `work` in a thread; return whether it ended within `timeout` seconds. If not, it is left running."""
    try:
        run_bounded(work, max(timeout, _INSTANT))
    except TimeoutError:
        return False
    except Exception:
        _log.exception("the mount did not stop cleanly")
    return True
