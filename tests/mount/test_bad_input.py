"""What cannot be mounted: one sentence with the remedy, an exit code, nothing mounted or touched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.forks import ForkServer
from tests.support.mounts import LET_GO, detach, environment, mounts_at

from jobfs.emulator import EmulatorConfig, Server, running

KEY = "a-key-that-nobody-may-see"
#: Seconds after which an attempt hangs: a wait for the server ends after 30, and no attempt here is to wait for it.
LIMIT = 25
#: An attempt to mount, with what is given otherwise; the words must be in its sentence.
Fails = Callable[..., None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(EmulatorConfig(key=KEY), tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def fails(server: Server, forks: ForkServer, tmp_path: Path) -> Fails:
    for name in ("mnt", "cache", "state"):
        (tmp_path / name).mkdir()
    given: dict[str, Any] = {
        "job": server.job, "url": server.url, "key": KEY, "directory": "mnt", "state": "state", "options": [],
    }  # fmt: skip

    def fails(*words: str, within: tuple[str, ...] = (), **changed: Any) -> None:
        one = {**given, **changed}
        directory = tmp_path / one["directory"]
        command = [
            "mount", one["job"], str(directory), "--foreground", "--base-url", one["url"],
            "--cache-dir", str(tmp_path / "cache"), "--state-dir", str(tmp_path / one["state"]), *one["options"],
        ]  # fmt: skip
        if within:
            command = [*within, sys.executable, "-m", "jobfs", *command]
        before = _picture(directory)
        try:
            env = environment(tmp_path, one["key"])
            done = forks.output(command, env, tmp_path, LIMIT, execute=bool(within))
        except subprocess.TimeoutExpired:
            detach(directory)
            raise AssertionError("it neither mounts nor fails, or it is mounted") from None
        said = done.stderr.strip()
        assert (done.returncode > 0, done.stdout, len(said.splitlines())) == (True, "", 1), said
        assert "Traceback" not in said
        assert KEY not in said
        assert _picture(directory) == before
        assert [word for word in words if word.lower() not in said.lower()] == [], said

    return fails


def _picture(directory: Path) -> Any:
    """Return the visible state of a mount point, to check that it is unchanged."""
    if not directory.is_dir():
        return directory.exists()
    stat = directory.stat()
    return mounts_at(directory), stat.st_ino, stat.st_mode, stat.st_mtime_ns, os.listdir(directory)


#: What is given otherwise, and words of the sentence. `file` is a file.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"job": "short"}, "job id"),
    ({"job": "unknown90123456789012345"}, "knows no job unknown90123456789012345"),
    ({"key": "wrong-" + KEY}, "refuses the API key"),
    ({"key": None}, "PERSTACK_API_KEY --api-key-file"),
    ({"url": "http://192.0.2.1"}, "https"),
    ({"directory": "missing/too"}, "/missing/too"),
    ({"directory": "file"}, "directory"),
    ({"state": "file/state"}, "state"),
    ({"options": ["--cache-dir", "file/cache"]}, "cache"),
    ({"options": ["--api-key", KEY]}, "--api-key-file"),
    ({"options": ["-o", f"api_key={KEY}"]}, "api_key_file"),
]


@pytest.mark.needs_fuse
@pytest.mark.parametrize(("changed", "words"), BAD)
def test_a_wrong_option_or_directory_is_reported_by_name(
    fails: Fails, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    """vfs/semantics.md 6.3, 6.9: what keeps it from mounting is one clear sentence and the remedy, before anything is mounted."""
    (tmp_path / "file").write_text("a file\n")
    fails(*words.split(), **changed)


@pytest.mark.needs_fuse
def test_an_unusable_server_is_reported_with_its_cause_in_time(server: Server, fails: Fails) -> None:
    https = server.url.replace("http:", "https:")
    fails(https, "the server does not speak https: for a server on this machine give http://", url=https)
    fails("knows no job", url=f"{server.url}/somewhere/else")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        fails("127.0.0.1", "no connection", "check the URL", url=url)
        unused.listen()
        fails("127.0.0.1", "no answer in time", "check the URL", url=url)


@pytest.mark.needs_root("only root has a mount namespace, in which the device is missing")
def test_a_missing_dev_fuse_is_reported(fails: Fails) -> None:
    """vfs/semantics.md 6.3: what keeps it from mounting is one clear sentence and the remedy, before anything is mounted."""
    script = f'{LET_GO}mount -t tmpfs none /dev && : > /dev/null && exec "$@"'
    fails("/dev/fuse", "modprobe", within=("unshare", "-m", "sh", "-c", script, "sh"))
