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


def fails(server: Server, home: Path, *words: str, **changed: Any) -> None:
    """An attempt to mount, with all that is `changed`, is one sentence with these words; nothing is mounted or touched."""
    places = {"directory": home / "mnt", "state": home / "state"}
    given = {
        "job": server.job,
        "url": server.url,
        "key": KEY,
        "options": [],
        "prefix": [],
        **places,
        **changed,
    }
    (home / "mnt").mkdir(exist_ok=True)
    command = [
        *given["prefix"], sys.executable, "-m", "jobfs", "mount", given["job"], str(given["directory"]), "--foreground",
        "--base-url", given["url"], "--cache-dir", str(home / "cache"), "--state-dir", str(given["state"]), *given["options"],
    ]  # fmt: skip
    env = environment(home, given["key"])
    mounts, before = mounts_at(given["directory"]), _picture(given["directory"])
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT, cwd=home)
    except subprocess.TimeoutExpired:
        detach(given["directory"])
        raise AssertionError("it neither mounts nor fails, or it is mounted") from None
    said = done.stderr.strip()
    assert (done.returncode > 0, done.stdout, len(said.splitlines())) == (True, "", 1), said
    assert "Traceback" not in said
    assert KEY not in said
    assert (mounts_at(given["directory"]), _picture(given["directory"])) == (mounts, before)
    assert [word for word in words if word.lower() not in said.lower()] == [], said


def _picture(directory: Path) -> Any:
    """Return the visible state of a mount point, to check that it is unchanged."""
    if not directory.is_dir():
        return directory.exists()
    stat = directory.stat()
    return stat.st_ino, stat.st_mode, stat.st_mtime_ns, os.listdir(directory)


#: What is given otherwise, and words of the sentence. `file` is a file, `two-words` too.
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


@pytest.mark.needs_fuse
@pytest.mark.parametrize(("changed", "words"), BAD)
def test_a_wrong_option_or_directory_is_reported_by_name(
    server: Server, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    """vfs/semantics.md 6.3, 6.9: what keeps it from mounting is one clear sentence and the remedy, before anything is mounted."""
    for name in ("file", "two-words"):
        (tmp_path / name).write_text("two words\n")
        (tmp_path / name).chmod(0o600)
    for name in changed.keys() & {"directory", "state"}:
        changed = {**changed, name: tmp_path / changed[name]}
    fails(server, tmp_path, *words.split(), **changed)


@pytest.mark.needs_fuse
@pytest.mark.parametrize("silent", [False, True])
def test_an_unusable_server_is_reported_with_its_cause_in_time(
    server: Server, tmp_path: Path, silent: bool
) -> None:
    if not silent:
        url = server.url.replace("http:", "https:")
        fails(
            server,
            tmp_path,
            url,
            "the server does not speak https: for a server on this machine give http://",
            url=url,
        )
        fails(server, tmp_path, "knows no job", url=f"{server.url}/somewhere/else")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        if silent:
            unused.listen()
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        said = "no answer in time" if silent else "no connection"
        fails(server, tmp_path, "127.0.0.1", said, "check the URL", url=url)


@pytest.mark.needs_root("only root has a mount namespace, in which the device is missing")
def test_a_missing_dev_fuse_is_reported(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 6.3: what keeps it from mounting is one clear sentence and the remedy, before anything is mounted."""
    script = f'{LET_GO}mount -t tmpfs none /dev && : > /dev/null && exec "$@"'
    fails(server, tmp_path, "/dev/fuse", "modprobe", prefix=["unshare", "-m", "sh", "-c", script, "sh"])
