"""The local server in a process of its own, and its workspace as it is on its disk, read without a request."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.support.forks import Forked, ForkServer
from tests.support.interferences import UNANSWERED
from tests.support.mounts import environment
from tests.support.waiting import readable

from jobfs.emulator import DEFAULT_JOB, DEFAULT_KEY, JobSide, Rule
from jobfs.emulator.log import CHANGING
from jobfs.emulator.records import DIRECTORY
from jobfs.emulator.store import EmulatorStore
from jobfs.emulator.workspace import Workspaces

#: Seconds for it to start, and for it to end after SIGTERM.
_START, _END = 30.0, 10.0


class Row(NamedTuple):
    """An item on the server's disk."""

    path: str
    is_dir: bool
    blob: str


class ServerProcess:
    """`jobfs emulator` on one directory; it ends with `forks`, if not before.

    The names `url`, `job` and `key` are those of `jobfs.emulator.Server`, which is what a mount is told.
    """

    job, key = DEFAULT_JOB, DEFAULT_KEY

    def __init__(self, forks: ForkServer, home: Path, seed: int) -> None:
        self._forks, self._home, self._seed = forks, home, seed
        self._directory = home / "server"
        self._process: Forked | None = None
        self.url = self._control_url = ""
        home.mkdir(parents=True, exist_ok=True)

    def seed(self, tree: Mapping[str, bytes | None]) -> None:
        """Puts files and directories there that are an hour old; only while it does not run."""
        with closing(EmulatorStore(self._directory)) as store:
            JobSide(Workspaces(store).add(self.job)).seed(tree, age=3600)

    def start(self, **switches: Any) -> None:
        """Starts it with these switches (milliseconds, bytes a second); returns when it listens."""
        given = {"dir": self._directory, "job": self.job, "key": self.key, "seed": self._seed, **switches}
        words = ["emulator", "--control-port", "0"]
        words += [word for name, value in given.items() for word in (f"--{name}", str(value))]
        read, write = os.pipe()
        try:
            with (self._home / "server.log").open("ab") as stderr:
                self._process = self._forks.run(
                    words, environment(self._home, None), self._home, write, stderr.fileno()
                )
        finally:
            os.close(write)
        with os.fdopen(read) as said:
            assert readable(said, _START), "the local server does not start"
            line = said.readline()
        urls = re.findall(r"http://127\.0\.0\.1:\d+", line)
        assert len(urls) == 2, f"the local server says {line!r}"
        self.url, self._control_url = urls

    def stop(self) -> None:
        """Ends it."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.kill(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END)
                return

    def control(self, path: str, method: str = "GET", body: bytes | None = None) -> Any:
        """What a control route answers."""
        return json.loads(self._asked(method, path, body) or b"null")

    def _asked(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        url = f"{self._control_url}/_emulator/{path}"
        request = urllib.request.Request(url, body, headers or {}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def set(self, **switches: Any) -> None:
        """Changes some switches; the next request sees it."""
        self.control("behaviour", "POST", json.dumps(switches).encode())

    def break_with(self, *rules: Rule) -> None:
        """From now on these faults strike."""
        self.control("faults", "POST", json.dumps([asdict(rule) for rule in rules]).encode())

    def mend(self) -> None:
        """No more faults; requests that hang go on hanging."""
        self.control("faults", "DELETE")

    def listen(self, accept: bool) -> None:
        """Connections break, and new ones are refused; or they are accepted again, at the same port."""
        self.control("listener", "POST", json.dumps({"open": accept}).encode())

    def forget(self) -> None:
        """Empties the log of requests."""
        self.control("log", "DELETE")

    def requests(self, operation: str) -> int:
        """How many requests of one operation there were since `forget`."""
        return len(self.control(f"log?operation={operation}"))

    def lost_answers(self) -> int:
        """How many requests that were to change something got no answer since `forget`; of many, by what the last ones show."""
        entries = self.control("log")
        lost = sum(entry["operation"] in CHANGING and entry["fault"] in UNANSWERED for entry in entries)
        return lost * int(entries[-1]["number"]) // len(entries) if entries else 0

    def write(self, path: str, content: bytes) -> None:
        """The job writes a file."""
        self.control(f"jobs/{self.job}/files/{quote(path)}", "PUT", content)

    def by_job(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes | None:
        """Make a request of the job's side about a file, and return the answer's body.

        None if nothing is at the path, or the request's condition does not hold. `headers` are spelled with underscores.
        """
        spelled = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            return self._asked(method, f"jobs/{self.job}/files/{quote(path)}", body, spelled)
        except urllib.error.HTTPError as error:
            if error.code in (404, 412):
                return None
            raise

    def _query(self, query: str, *given: str) -> list[Any]:
        database = f"file:{self._directory}/items.db?mode=ro"
        with closing(sqlite3.connect(database, uri=True, timeout=5)) as items:
            return items.execute(query, given).fetchall()

    def count(self, *patterns: str) -> list[int]:
        """For each pattern of SQL's LIKE how many paths fit it."""
        query = "SELECT count(*) FROM items WHERE CAST(path AS TEXT) LIKE ?"
        return [self._query(query, pattern)[0][0] for pattern in patterns]

    def rows(self) -> list[Row]:
        """Every item."""
        found = self._query("SELECT path, kind, blob FROM items")
        return [Row(path.decode(), kind == DIRECTORY, blob) for path, kind, blob in found]

    def content(self, row: Row) -> bytes:
        """The bytes of a file."""
        return (self._directory / "content" / row.blob[:2] / row.blob).read_bytes()


class RemoteJob:
    """The job's side of the server, for one act of the list: as JobSide, but it replaces only what the act has read.

    Raises KeyError if that is not at the path any more.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._read: dict[str, bytes | None] = {}
        self._drafts: list[str] = []

    def exists(self, path: str) -> bool:
        self._read[path] = self._server.by_job("GET", path)
        return self._read[path] is not None

    def item_at(self, path: str) -> Row:
        return Row(path, is_dir=False, blob="")

    def read(self, path: str) -> bytes:
        content = self._read[path]
        assert content is not None
        return content

    def append(self, path: str, content: bytes) -> None:
        self._change("POST", path, content)

    def write(self, path: str, content: bytes) -> None:
        self._change("PUT", path, content, **self._condition(path))

    def seed(self, tree: Mapping[str, bytes]) -> None:
        """Write drafts, where nothing is."""
        for path, content in tree.items():
            self._drafts.append(path)
            self._change("PUT", path, content)

    def move(self, old: str, new: str) -> None:
        condition = self._condition(new) if new in self._read else {}
        self._change("PATCH", old, json.dumps({"path": new}).encode(), **condition)

    def remove_drafts(self) -> None:
        """Delete what could not be renamed."""
        for draft in self._drafts:
            self._server.by_job("DELETE", draft)

    def _condition(self, path: str) -> dict[str, str]:
        before = self._read[path]
        if before is None:
            raise KeyError(path)
        return {"if_match": f'"{hashlib.sha256(before).hexdigest()}"'}

    def _change(self, method: str, path: str, body: bytes, **headers: str) -> None:
        if self._server.by_job(method, path, body, **headers) is None:
            raise KeyError(path)
