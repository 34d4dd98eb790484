"""jobfs under test: the local server in a process of its own, the relay, and `jobfs mount`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobfs.emulator.jobside import JobSide
from jobfs.emulator.records import DIRECTORY, FILE, StoredItem, new_id
from jobfs.emulator.store import EmulatorStore
from jobfs.emulator.workspace import Workspaces

from . import tree
from .lab import Lab, NotMeasured, Relay, await_that, cpu_seconds, is_mounted
from .system import Mounted, System

_KEY = "bench"

#: The huge workspace: all items, those in its largest directory, those in each other directory.
HUGE_ITEMS, HUGE_DIRECTORY, HUGE_PART = 100_000, 10_000, 300


class Server:
    """The local server on `directory`; its own port is used only for what is not measured."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        command = [sys.executable, "-m", "jobfs", "emulator", "--dir", directory, "--key", _KEY]
        self.process = lab.keep(lab.process(command))
        self.port = int(lab.read_line(self.process).partition("http://127.0.0.1:")[2].partition(" ")[0])

    def control(self, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
        """Return the answer of a control route."""
        url = f"http://127.0.0.1:{self.port}/_emulator/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def log(self) -> list[dict[str, Any]]:
        """Return the requests since `forget`."""
        entries: list[dict[str, Any]] = json.loads(self.control("log"))
        return entries

    def forget(self) -> None:
        """Clear the log."""
        self.control("log", "DELETE")


class Jobfs(System):
    """A server with a job for each data set, and `spare` more jobs for some."""

    name = "jobfs"

    def __init__(
        self,
        lab: Lab,
        datasets: Mapping[str, tree.Tree],
        spare: Mapping[str, int],
        profile: Path | None = None,
    ) -> None:
        super().__init__(lab)
        self._profile = profile
        self._jobs = {name: new_id() for name in datasets}
        self._spare = {name: [new_id() for _ in range(count)] for name, count in spare.items()}
        directory = lab.fresh("server")
        _seed(directory, {
            job: content
            for name, content in datasets.items()
            for job in (self._jobs[name], *self._spare.get(name, ()))
        })  # fmt: skip
        self.server = Server(lab, directory)
        self.relay = Relay(lab, self.server.port)

    def writable(self, dataset: str) -> str:
        """Return the name of a spare job with these data."""
        name = f"{dataset}-{len(self._spare[dataset])}"
        self._jobs[name] = self._spare[dataset].pop()
        return name

    def environment(self) -> dict[str, str]:
        """Return the environment of a jobfs command."""
        return self.lab.environment(PERSTACK_API_KEY=_KEY)

    def command(self, dataset: str, directory: Path, *words: str, **options: Any) -> list[str | Path]:
        """Return the command line of a mount with new, empty directories for cache and state."""
        assert self.relay is not None
        home = self.lab.fresh("jobfs")
        python: list[str | Path] = [sys.executable, "-m"]
        python += ["_bench.profiled", self._profile] if self._profile else ["jobfs"]
        given = {
            "base-url": f"http://127.0.0.1:{self.relay.port}", "cache-dir": home / "cache",
            "state-dir": home / "state", **options,
        }  # fmt: skip
        flags = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        return [*python, "mount", self._jobs[dataset], directory, *words, *flags]

    @contextmanager
    def mount(self, dataset: str, **options: Any) -> Iterator[Mounted]:
        """Mount a job in the foreground of a process of its own."""
        with self.lab.mount_point() as directory:
            command = self.command(dataset, directory, "--foreground", **options)
            with self.lab.process(command, self.environment()) as process:
                self.lab.read_line(process)
                yield Mounted(directory, [process.pid])

    def mount_in_background(self, dataset: str, directory: Path) -> None:
        """Run the mount command as a user does: it returns once the mount is ready."""
        done = subprocess.run(
            self.command(dataset, directory),
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not is_mounted(directory):
            raise NotMeasured(f"jobfs mount ended with {done.returncode}: {done.stderr}")

    def unmount(self, directory: Path) -> None:
        """End a mount in the background."""
        command = [sys.executable, "-m", "jobfs", "umount", str(directory)]
        subprocess.run(command, env=self.environment(), capture_output=True, check=True)

    def download_url(self, dataset: str, path: str) -> tuple[str, str]:
        """Return the URL of a file's content, through the relay, and the header that it needs."""
        assert self.relay is not None
        items = json.loads(self.server.control(f"jobs/{self._jobs[dataset]}/items"))
        (item,) = [item["id"] for item in items if item["path"] == path]
        base = f"http://127.0.0.1:{self.relay.port}/api/studio/v1/expert_jobs/{self._jobs[dataset]}"
        return f"{base}/workspace_instance/items/{item}/download", f"Authorization: Bearer {_KEY}"

    def arrival(self, dataset: str, tree: tree.Tree, since: float) -> float:
        """Wait until the server has every byte; return when it answered the last POST (seconds since the epoch)."""
        wanted = {path: hashlib.sha256(content).hexdigest() for path, content in tree.items()}
        job = self._jobs[dataset]

        def arrived() -> bool:
            items = json.loads(self.server.control(f"jobs/{job}/items"))
            there = {item["path"]: item.get("sha256") for item in items}
            return all(there.get(path) == digest for path, digest in wanted.items())

        await_that(arrived, "the server has everything", 60.0, 0.3)
        posts = [
            e for e in self.server.log() if e["method"] == "POST" and e["job"] == job and e["ms"] is not None
        ]
        return max((entry["time"] + entry["ms"] / 1000 for entry in posts), default=since)

    def _forget(self) -> None:
        self.server.forget()

    def _served_cpu(self) -> float:
        return super()._served_cpu() + cpu_seconds(self.server.process.pid)

    def _count(self, through_relay: int) -> float:
        return len(self.server.log())


class Huge(Jobfs):
    """A workspace of 100,000 items, with its own server and relay."""

    def __init__(self, lab: Lab) -> None:
        System.__init__(self, lab)
        self._profile = None
        self._jobs = {"huge": new_id()}
        directory = lab.fresh("huge")
        _seed_huge(directory, self._jobs["huge"])
        self.server = Server(lab, directory)
        self.relay = Relay(lab, self.server.port)


def huge_paths() -> tuple[list[str], list[str]]:
    """Return the directories and the files of the huge workspace, HUGE_ITEMS in all."""
    directories = ["large"]
    files = [f"large/entry-{n:05d}.dat" for n in range(HUGE_DIRECTORY)]
    while len(directories) + len(files) < HUGE_ITEMS:
        directories.append(name := f"part-{len(directories):04d}")
        room = min(HUGE_PART, HUGE_ITEMS - len(directories) - len(files))
        files += [f"{name}/entry-{n:03d}.dat" for n in range(room)]
    return directories, files


def _seed(directory: Path, jobs: Mapping[str, tree.Tree]) -> None:
    store = EmulatorStore(directory)
    try:
        for job, content in jobs.items():
            JobSide(Workspaces(store).add(job)).seed(content, age=3600)
    finally:
        store.close()


def _seed_huge(directory: Path, job: str) -> None:
    """Write rows only: every file has the same content, which the server stores once."""
    store = EmulatorStore(directory)
    try:
        workspace = Workspaces(store).add(job)
        blob = store.new_blob()
        blob.write(b"0123456789")
        blob.close()
        start = store.now_us() - 3600 * 10**6
        directories, files = huge_paths()
        kinds: list[tuple[Any, str]] = [(DIRECTORY, path) for path in directories]
        kinds += [(FILE, path) for path in files]
        workspace.commit(
            [
                StoredItem(
                    new_id(), kind, path, "expert", "expertJob", "readWrite", start + n, start + n,
                    *((0, "") if kind == DIRECTORY else (blob.size, blob.name)),
                )
                for n, (kind, path) in enumerate(kinds)
            ]
        )  # fmt: skip
    finally:
        store.close()


def now() -> float:
    """Return the time by the clock that the server's log uses, too."""
    return time.time()
