"""Vfs: what each operation means (vfs/semantics.md), without ctypes and without HTTP. Paths as in names.py; the root is ""."""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import threading
import time
from collections.abc import Callable, Sequence

from jobfs import names
from jobfs.api.client import Client
from jobfs.content import ContentStore
from jobfs.document import Unsent
from jobfs.errors import FsError, JobfsError
from jobfs.namespace import Namespace
from jobfs.namespace.news import News
from jobfs.nodes import Attr, Item, Sent
from jobfs.save import WriteBack, restore
from jobfs.settings import Settings
from jobfs.state import File, StateDirectory
from jobfs.state.left import left_in
from jobfs.state.localbytes import free
from jobfs.state.records import Handle
from jobfs.state.server import KnownServer
from jobfs.vfs.attributes import Attributes
from jobfs.vfs.files import Files
from jobfs.vfs.report import Report
from jobfs.vfs.tree import Tree
from jobfs.vfs.view import View

log = logging.getLogger("jobfs.vfs")

#: Bytes of a block, and how many files more there may be, as `statvfs` tells it.
_BLOCK, _FREE = 4096, 1 << 20
_DRAIN = 24 * 3600.0
#: Seconds between looks at what is still hidden on the server.
_LOOK = 0.3


def ask_for_more_descriptors() -> None:
    """Raise this process's limit on descriptors as far as it may be raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system may have a lower limit of its own: then the present one stays.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Vfs(Attributes, Tree, Files):
    """The mounted workspace. Every method may be called from any thread and raises JobfsError with an errno."""

    def __init__(
        self,
        settings: Settings,
        directory: StateDirectory,
        client: Client,
        content: ContentStore,
        namespace: Namespace,
        server: KnownServer,
    ) -> None:
        """`directory` holds this mount's unsent work. Raises UsageError if the journal can't be used."""
        state, mount = directory.path, directory.record.mount_id
        view = View(WriteBack(client, namespace, content, state, mount, settings, server), settings)
        super().__init__(view, Report(view, directory))
        self._directory = directory
        self._stopped = threading.Event()
        self.status, self.unsent, self.refresh = self._report.status, self._report.unsent, namespace.refresh
        #: See `Health.silence`.
        self.silence = client.health.silence
        #: To be called once everything is on the server: copies of bytes that were given up are no longer kept.
        self.empty_trash = self._state.bytes.empty_trash
        self.retry, self.discard = self._write_back.retry, self._write_back.discard
        self.part, self.moved = self._pages.part, self._pages.moved
        #: What the status says of programs that watch; to be kept by who tells them.
        self.watching = self._report.watching
        #: What an earlier mount had left and this one took up, a line each.
        self.taken_up: list[str] = []
        #: How many changes of an earlier mount a read-only mount leaves as they are.
        self.left_alone = 0

    # -- life

    def start(self) -> None:
        """Take up what an earlier mount left, which a read-only mount does not, and begin background work. Raises UsageError."""
        if self._settings.read_only:
            self.left_alone = len(left_in(self._directory.path).told())
            return
        self.taken_up = self._write_back.taken_up = restore(self._write_back)
        self._write_back.start()

    def stop(self) -> None:
        """End background work; open files are closed, what is not on the server stays in the journal."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        try:
            self.close_all()
        except JobfsError as error:
            log.error("%s", error)
        self._write_back.stop()

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[Sent], None] | None
    ) -> list[Unsent]:
        """Bring everything written (at or below `path`) to the server; returns what is left after `timeout` seconds.

        `progress` is called several times a second; an error that it raises breaks it off.
        """
        under, queue = path or "", self._write_back.queue
        progress = progress or (lambda sent: None)
        self._seal_open()
        deadline = time.monotonic() + (_DRAIN if timeout is None else timeout)
        whole = self._state.left(under).files
        count, size = len(whole), sum(file.size for file in whole)
        while True:
            remaining = deadline - time.monotonic()
            done = queue.drain(max(min(remaining, 0.25), 0.0), under)
            left = self._state.left(under)
            progress(_sent(count, size, left.files))
            if done or remaining <= 0:
                break
        if not left.files:
            self._clean_up(deadline, lambda: progress(_sent(count, size, [])))
        return left._replace(opened=[], changes=[] if done else left.changes).told()

    def _seal_open(self) -> None:
        """Make due now what was written to open files, and what could not be recorded when it was closed."""
        for file in {*self._state.opened.values(), *self._state.unclosed}:
            if file.local is not None and not file.stays and file.path is not None:
                try:
                    self._write_back.seal(file)
                except JobfsError as error:
                    # A file that can't be recorded keeps no other from being sent.
                    log.error("%s: what was written to it can't be recorded: %s", file.path, error)
                self._write_back.queue.save(file, 0.0)

    def _clean_up(self, deadline: float, going_on: Callable[[], None]) -> None:
        """Wait until the asides of saves are off the server, `--timeout` seconds at most; not for those that R7 keeps waiting."""
        end = min(deadline, time.monotonic() + self._settings.timeout)
        queue = self._write_back.queue
        while queue.to_clean(max(min(end - time.monotonic(), 0.25), 0.0), waiting=False):
            going_on()
            if time.monotonic() >= end:
                return

    # -- what a person decides about saves that do not get through

    @property
    def warnings(self) -> list[str]:
        """What the user has to be told when the mount starts, a sentence each."""
        recovery = self._settings.recovery(self._directory.record.job)
        waiting = (
            f"what an earlier mount has left ({self.left_alone}) is not finished, nor shown here: unmount this, then mount the "
            f"job without --read-only, or {recovery}"
        )
        return self._write_back.warnings + [waiting] * bool(self.left_alone)

    def tidy(self, timeout: float) -> list[str]:
        """Wait until own hidden items are judged or exposed (R4, R7); the paths left after `timeout` seconds. Raises ApiError."""
        end = time.monotonic() + timeout
        self._write_back.queue.to_clean(timeout, waiting=True)
        while True:
            self._namespace.refresh()
            left = self.hidden_of(self._write_back.context.mount)
            if not left or time.monotonic() > end:
                return [item.path for item in left]
            time.sleep(_LOOK)

    def hidden_of(self, mount: str) -> list[Item]:
        """The hidden items that a mount has left on the server, as of the last listing."""
        found = [(item, names.parse_hidden(names.basename(item.path))) for item in self._namespace.hidden()]
        return [item for item, parts in found if parts is not None and parts.mount == mount]

    def expose(self, mount: str) -> list[str]:
        """Give every hidden item of a mount whose state is lost a visible name (R4); returns what was done. Raises ApiError."""
        self._namespace.refresh()
        done = [self._write_back.cleanup.expose(item, anyway=True) for item in self.hidden_of(mount)]
        return [line for line in done if line]

    # -- attributes

    def getattr(self, path: str) -> Attr:
        """Attributes of a path. Raises FsError(ENOENT), ApiError (section 2)."""
        if path.startswith(names.CONTROL_DIR) and (name := names.control_name(path)) is not None:
            return self._report.attr(name)
        return self._view.attr(self._view.measured(path, self._view.get(path)))

    def looked_up(self, path: str) -> Attr:
        """`getattr` of a directory's entry, for a listing. Raises FsError(ENOENT) also where a request would be needed."""
        node = self._view.looked_up(path)
        if node is None or self._view.unmeasured(node) is not None or self.others(path):
            raise FsError(errno.ENOENT)
        return self._view.attr(node)

    def is_as_listed(self, path: str) -> bool:
        """Return whether `looked_up` shows what `listdir` has shown in this edition: an item of known size that is not open."""
        if self._state.at(path) or self._state.hidden(path) or self._pages.at(path):
            return False
        item = self._namespace.looked_up(path)
        # A size that the server does not tell may have been found out since.
        return item is not None and (item.is_dir or item.size is not None)

    def known(self, path: str) -> Attr:
        """Attributes of a path as they were shown last, those of the version that is open there. Raises FsError(ENOENT)."""
        open_item = next((handle.item for handle in self.others(path)), None)
        node = open_item or self._view.find_known(path)
        if node is None or self._view.unmeasured(node) is not None:
            raise FsError(errno.ENOENT)
        return self._view.attr(node)

    def news(self) -> list[News]:
        """What others have changed since this was asked last, and is shown (section 7)."""
        return [news for news in self._namespace.news() if not any(map(self._is_ours, (news.path, news.old)))]

    def _is_ours(self, path: str) -> bool:
        """True if a path shows what this machine says of it, or what it says is on its way to the server."""
        file = self._state.at(path) if path else None
        return self._state.hidden(path) or (file is not None and (file.here or file.change is not None))

    def attr_of(self, item: Item, path: str = "") -> Attr:
        """Attributes of what the server shows or has shown, but of the version that is open at `path`, if one is."""
        return self._view.attr(next((each.item for each in self._pages.at(path) if each.item), item))

    def is_open(self, path: str) -> bool:
        """True if a program has a file at a path or below it open."""
        return self._pages.any_within(path)

    def look(self) -> None:
        """Read the listing if it is older than the effective TTL, for who watches. Raises ApiError."""
        health = self._write_back.client.health
        before = health.requests
        self._namespace.children("")
        # With those that others have made meanwhile: it need not be exact.
        self.watching["requests"] += health.requests - before

    def others(self, path: str) -> Sequence[Handle]:
        """Handles at this path, if another version is shown there (section 3, Open files are pinned). No request is made."""
        there = self._pages.at(path)
        node = self._view.find_known(path) if there else None
        return there if isinstance(node, Item) and not self._pages.only(path, node.version) else ()

    def edition(self) -> int:
        """A number that stays the same while every `getattr` would be answered as before; 0 if that can't be said."""
        edition = self._namespace.edition()
        return edition + self._state.edition if edition else 0

    def lasting(self, path: str) -> bool:
        """True if the attributes of this path change only with the edition: they are the server's."""
        known_here = self._state.at(path) or self._state.hidden(path)
        return not known_here and self._namespace.peek(path) is not None

    def statfs(self) -> dict[str, int]:
        """What `statvfs` shows: sum of known sizes; free space is that of the disk that holds unsent work (section 2)."""
        facts = self._namespace.status()
        used, room = -(-facts.size // _BLOCK), free(self._state.bytes.directory) // _BLOCK
        return {
            "f_bsize": _BLOCK, "f_frsize": _BLOCK, "f_blocks": used + room, "f_bfree": room, "f_bavail": room,
            "f_files": facts.items + _FREE, "f_ffree": _FREE, "f_favail": _FREE, "f_namemax": names.NAME_MAX,
        }  # fmt: skip

    def listdir(self, path: str) -> list[tuple[str, Attr]]:
        """Entries of a directory without `.` and `..`. Raises FsError(ENOENT, ENOTDIR), ApiError (section 1)."""
        if (name := names.control_name(path)) is not None:
            return self._report.entries(name)
        attr = self._view.attr
        # By inode number, as some programs sort them anyway: so all programs read files in one order (see prefetch.py).
        return sorted(
            ((name, attr(node)) for name, node in self._view.list(path).items()),
            key=lambda entry: entry[1].ino,
        )

    def fsyncdir(self) -> None:
        """Bring what this machine knows of changed names to its disk; most are on the server already. Raises FsError(EIO)."""
        self._state.sync()


def _sent(count: int, size: int, left: Sequence[File]) -> Sent:
    """Progress when `left` of `count` files with `size` bytes are not sent yet; bytes on their way count as sent."""
    on_their_way = (min(file.change.sent, file.size) for file in left if file.change is not None)
    missing = sum(file.size for file in left) - sum(on_their_way)
    return Sent(max(count - len(left), 0), count, max(size - missing, 0), size)
