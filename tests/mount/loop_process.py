"""The mount that test_loop.py tests: a Vfs in memory behind the driver, the loop pool and `jobfs.mount.run`.

    python -m tests.mount.loop_process DIR STATE_DIR [undrained] [--ttl=5]

It prints "mounted", and at its end one line of JSON: what was called. A file whose name begins with "blocked"
can't be read before the file STATE_DIR/release exists, "blocked-open" not even be opened (STATE_DIR/opening says that
somebody tries), and "blocked-in-silence" waits without saying so; with "undrained" nothing is ever sent before that.
STATE_DIR/closed is made whenever no file is open any more.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

from jobfs import mount
from jobfs.api.deadline import about_to_wait
from jobfs.cli import logs
from jobfs.nodes import Sent
from jobfs.settings import load
from jobfs.state import directory as slot
from jobfs.vfs import OpenResult

from .memory_vfs import MemoryVfs

JOB = "a" * 24


class BlockingVfs(MemoryVfs):
    """Blocks in reads of some files, and in draining if asked to, until a file exists."""

    def __init__(self, release: Path, undrained: bool) -> None:
        super().__init__()
        self._release = release
        self._undrained = undrained
        self.put("blocked", b"after long")
        self.put("blocked-in-silence", b"after long")
        self.put("blocked-open", b"after long")
        self.put("plain", b"at once")
        self.put("many", mode=stat.S_IFDIR | 0o755)
        for number in range(300):
            self.put(f"many/file{number}", bytes(number))
        self.put("many/to-be-asked-for", b"1")
        self.waiting = ["unsent.txt"] if undrained else []

    def open(self, path: str, flags: int) -> OpenResult:
        if path == "blocked-open":
            (self._release.parent / "opening").touch()
            while not self._release.exists():
                time.sleep(0.01)
            if flags & os.O_TRUNC:
                self.put(path)
        # Past the page cache, where readers of one page would wait for each other and not for us.
        return super().open(path, flags)._replace(direct_io=path.startswith("blocked"))

    def read(self, fh: int, size: int, offset: int) -> bytes:
        file = self.open_files[fh]
        if file is self.nodes.get("blocked"):
            about_to_wait()
        if file in (self.nodes.get("blocked"), self.nodes.get("blocked-in-silence")):
            while not self._release.exists():
                time.sleep(0.01)
        return super().read(fh, size, offset)

    def release(self, fh: int) -> None:
        super().release(fh)
        if not self.open_files:
            (self._release.parent / "closed").touch()

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[Sent], None] | None = None
    ) -> list[str]:
        if self._undrained and timeout != 0.0:
            print("draining", flush=True)
            end = time.monotonic() + (timeout or 60.0)
            while not self._release.exists() and time.monotonic() < end:
                if progress is not None:
                    progress(Sent(0, 1))
                time.sleep(0.01)
        return super().flush_all(path, timeout, progress)


def serve() -> int:
    directory, state = sys.argv[1], Path(sys.argv[2])
    vfs = BlockingVfs(state / "release", "undrained" in sys.argv)
    place = slot.acquire(state, JOB, directory, "http://127.0.0.1:1")
    stop = vfs.stop

    def report() -> None:
        stop()
        print(json.dumps(vfs.calls), flush=True)

    vfs.stop = report  # type: ignore[method-assign]
    settings = load({"state_dir": str(state), "ttl": "5" if "--ttl=5" in sys.argv else "0", "timeout": "2"})
    return mount.run(
        settings,
        place,
        lambda: mount.Mounted(vfs),  # type: ignore[arg-type]
        logs.say,
        lambda: print("mounted", flush=True),
    )


if __name__ == "__main__":
    sys.exit(serve())
