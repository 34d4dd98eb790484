"""What `open` gives: a handle on one version's content."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from jobfs.content.entry import Entry
from jobfs.content.run import Run
from jobfs.errors import FsError
from jobfs.nodes import Version


class Content:
    """An open handle on one version's content; the version is pinned until `close`.

    `size` is in bytes, None until it is known. Handles may be shared by threads.
    """

    __slots__ = ("_closed", "_entry", "_release", "_run")

    def __init__(self, entry: Entry, release: Callable[[Entry], None]) -> None:
        self._entry = entry
        self._release = release
        self._run = Run()
        self._closed = False

    @property
    def version(self) -> Version:
        """The version that this handle reads."""
        return self._entry.version

    @property
    def size(self) -> int | None:
        """Bytes of the whole content; None until known."""
        return self._entry.size

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, fewer only at the end of the file (semantics.md section 3).

        Waits until those bytes are there, at most `timeout` seconds without progress. Raises ApiError:
        UnavailableError, NotFoundError, StaleVersionError (look up and open again), ContractError. Raises
        FsError: what the local disk says. A read that `close` overtakes still gets its bytes.
        """
        entry = self._entry
        file = entry.backing.file
        if entry.whole and file is not None:
            wanted = min(size, max((entry.size or 0) - offset, 0))
            try:
                data = os.pread(file.fd, wanted, offset)
            except OSError:
                data = b""
            if len(data) == wanted:
                return data
        return entry.read(self._run, offset, size)

    def meet(self) -> None:
        """Wait for the first byte, if there is one: the server's answer is to this version. Raises as `read` does."""
        self._entry.read(Run(), 0, 1)

    def fetch(self) -> Path:
        """Bring everything; a file with the whole content, not to be written to, valid until `close`.

        Raises ApiError as `read` does, and FsError (ENOSPC) if the disk of the cache has no room for it.
        """
        if self._closed:
            raise FsError(errno.EBADF)
        return self._entry.fetch()

    @property
    def here(self) -> bool:
        """True if every byte was seen to be on disk; False proves nothing."""
        return self._entry.whole

    def bring(self) -> None:
        """Bring everything, in this thread and behind what readers wait for; errors are left to readers."""
        if not self._closed:
            self._entry.bring()

    def whole(self) -> bool:
        """True if every byte is on disk."""
        return self._entry.on_disk()

    def sha256(self) -> str | None:
        """SHA-256 in hex of the whole content; None unless it is whole. Computed once, from the disk."""
        return None if self._closed else self._entry.sha256()

    def close(self) -> None:
        """Unpin this version; a download that only this handle wanted stops soon. May be called again."""
        if not self._closed:
            self._closed = True
            self._release(self._entry)

    def __enter__(self) -> Content:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
