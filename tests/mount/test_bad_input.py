"""What cannot be mounted: one sentence with the remedy, an exit code, nothing mounted or touched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.mounts import detach, environment, mounts_at
from tests.support.namespace import LET_GO

from jobfs.emulator import EmulatorConfig, Server, running

KEY = "a-key-that-nobody-may-see"
#: Seconds after which an attempt hangs: a wait for the server ends after 30, and no attempt here is to wait for it.
LIMIT = 25


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(EmulatorConfig(key=KEY), tmp_path_factory.mktemp("server")) as server:
        yield server


class Attempt:
    """An attempt to mount that must fail; everything can be given otherwise."""

    def __init__(self, server: Server, home: Path) -> None:
        self.home = home
        self.directory = home / "mnt"
        self.job = server.job
        self.key: str | None = KEY
        self.url = server.url
        self.state = home / "state"
        self.options: list[str] = []
        self.prefix: list[str] = []
        self.directory.mkdir()

    def fails(self, *words: str) -> None:
        """Runs it; checks all that holds for each bad input, and that the sentence has these words."""
        command = [
            *self.prefix, sys.executable, "-m", "jobfs", "mount", self.job, str(self.directory),
            "--foreground",
            "--base-url", self.url, "--cache-dir", str(self.home / "cache"), "--state-dir", str(self.state),
            *self.options,
        ]  # fmt: skip
        env = environment(self.home, self.key)
        mounts, before = mounts_at(self.directory), _picture(self.directory)
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=LIMIT, cwd=self.home
            )
        except subprocess.TimeoutExpired:
            detach(self.directory)
            raise AssertionError("it neither mounts nor fails, or it is mounted") from None
        said = done.stderr.strip()
        assert (done.returncode > 0, done.stdout, len(said.splitlines())) == (True, "", 1), said
        assert "Traceback" not in said
        assert KEY not in said
        assert (mounts_at(self.directory), _picture(self.directory)) == (mounts, before)
        assert [word for word in words if word.lower() not in said.lower()] == [], said


def _picture(directory: Path) -> Any:
    """What can be seen of a mount point, to tell whether it was touched."""
    if not directory.is_dir():
        return directory.exists()
    stat = directory.stat()
    return stat.st_ino, stat.st_mode, stat.st_mtime_ns, os.listdir(directory)


@pytest.fixture
def attempt(server: Server, tmp_path: Path) -> Attempt:
    return Attempt(server, tmp_path)


#: What is given otherwise, as attributes of the attempt, and words of the sentence. `file` is a file, `two-words` too.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"job": "short"}, "job id"),
    ({"job": "unknown90123456789012345"}, "knows no job unknown90123456789012345"),
    ({"key": "wrong-" + KEY}, "refuses the API key"),
    ({"key": None}, "PERSTACK_API_KEY --api-key-file"),
    ({"key": None, "options": ["--api-key-file", "two-words"]}, "two-words"),
    ({"url": "http://192.0.2.1"}, "https"),
    ({"directory": "missing/too"}, "/missing/too"),
    ({"directory": "file"}, "directory"),
    ({"state": "file/state"}, "state"),
    ({"options": ["--cache-dir", "file/cache"]}, "cache"),
    ({"options": ["--no-such-option"]}, "no-such-option"),
    ({"options": ["--ttl", "soon"]}, "ttl"),
    ({"options": ["--api-key", KEY]}, "--api-key-file"),
    ({"options": ["-o", f"api_key={KEY}"]}, "api_key_file"),
]


@pytest.mark.parametrize(("changed", "words"), BAD)
def test_a_wrong_option_or_directory_is_named(attempt: Attempt, changed: dict[str, Any], words: str) -> None:
    """vfs/semantics.md 6.3, 6.9: what keeps it from mounting is one clear sentence and the remedy, before anything is mounted."""
    for name in ("file", "two-words"):
        (attempt.home / name).write_text("two words\n")
        (attempt.home / name).chmod(0o600)
    for name, value in changed.items():
        setattr(attempt, name, attempt.home / value if name in ("directory", "state") else value)
    attempt.fails(*words.split())


@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_cannot_be_reached_is_silent_or_no_workspace_api_is_named_in_time(
    attempt: Attempt, silent: bool
) -> None:
    url = attempt.url
    attempt.url = url.replace("http:", "https:")
    attempt.fails(attempt.url, "no https is spoken there: for a server on this machine give http://")
    attempt.url = f"{url}/somewhere/else"
    attempt.fails("knows no job")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        if silent:
            unused.listen()
        attempt.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        attempt.fails("127.0.0.1", "no answer in time" if silent else "no connection", "check the URL")


def test_a_missing_dev_fuse_is_named(attempt: Attempt) -> None:
    """vfs/semantics.md 6.3: what keeps it from mounting is one clear sentence and the remedy, before anything is mounted."""
    script = "mount -t tmpfs none /dev && : > /dev/null && "
    attempt.prefix = ["unshare", "-m", "sh", "-c", f'{LET_GO}{script}exec "$@"', "sh"]
    attempt.fails("/dev/fuse", "modprobe")
