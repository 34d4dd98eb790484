"""The job at work on the same files, past the mount: overwrites, replaces, appends, creates, deletes."""

from __future__ import annotations

import random
import threading

from jobfs import names
from jobfs.emulator import Server

from .contents import Content, Contents
from .ledger import Ledger


class Job:
    """`run` in a thread of its own. Each step and its note in the ledger are one: the server's lock is held."""

    def __init__(
        self, server: Server, ledger: Ledger, contents: Contents, paths: list[str], seed: int, pause: float
    ) -> None:
        """`paths`: what it works on, there or not. `pause`: mean seconds between two steps."""
        self._side, self._ledger, self._contents, self._paths = server.store, ledger, contents, paths
        self._random = random.Random(seed)
        self._pause = pause

    def run(self, stop: threading.Event) -> None:
        """Works until told to stop."""
        while not stop.wait(self._random.expovariate(1 / self._pause)):
            with self._side._lock:
                self._step(self._random.choice(self._paths))

    def _step(self, path: str) -> None:
        kind = self._random.choices(["write", "replace", "append", "delete", "tree"], [8, 4, 4, 3, 0.3])[0]
        if kind == "tree" and "/" in path:
            self._delete(names.parent(path))
        elif self._side.exists(path) and self._side.item(path).is_dir:
            return
        elif kind == "delete":
            self._delete(path)
        else:
            self._write(kind, path)

    def _write(self, kind: str, path: str) -> None:
        before = self._side.read(path) if self._side.exists(path) else None
        if before is None and names.parent(path) and not self._side.exists(names.parent(path)):
            return
        after = before if kind == "append" and before is not None else b""
        new = self._contents.make("job", self._random.randrange(20, 3000), after=after, by_job=True)
        if before is None:
            self._side.seed({path: new.data})
        elif kind == "replace":
            self._side.replace(path, new.data)
        else:
            self._side.write(path, new.data)
        destroyed = None if before is None else self._contents.known(before)
        self._ledger.job_put(path, new, destroyed, kind)

    def _delete(self, path: str) -> None:
        doomed = [item for item in self._side.items() if item.path == path or names.under(item.path, path)]
        if not doomed:
            return
        destroyed: list[Content] = [
            self._contents.known(self._side.content(item.id)) for item in doomed if not item.is_dir
        ]
        self._side.delete(path)
        self._ledger.job_delete(path, destroyed)
