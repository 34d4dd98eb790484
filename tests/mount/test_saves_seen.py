"""A save seen by another program of the same machine: the name is there at every moment, with one version or the other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob, run
from tests.support.waiting import readable

from jobfs.emulator import Server

#: Opens, asks about and reads a file until its input ends; prints each result, and how often it came. A byte in `looks` a round.
_WATCH = """
import collections, json, os, select, sys
path, seen, looks = sys.argv[1], collections.Counter(), open(sys.argv[2], "ab", buffering=0)

def read():
    with open(path, "rb") as file:
        return len(file.read())

def look(what, call):
    try:
        size = call()
    except OSError as error:
        size = os.strerror(error.errno)
    seen[f"{what}: {size}"] += 1

print("watching", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    look("stat", lambda: os.stat(path).st_size)
    look("open", lambda: os.close(os.open(path, os.O_RDONLY)))
    look("read", read)
    looks.write(b".")
print(json.dumps(seen))
"""

#: Saves a file of seven bytes again and again; not so fast that two saves fall between another's lookup and its open, which
#: the kernel looks up once more, and not twice: the watcher has looked once from beginning to end since the last save.
_SAVE = """
import os, sys, time
path, looks, how, saves = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
for number in range(saves):
    written = path if how == "in place" else path + ".new"
    with open(written, "r+b" if how == "in place" else "wb") as file:
        file.write(b"%07d" % number)
        file.flush()
        if how != "renamed":
            os.fsync(file.fileno())
    if written != path:
        os.rename(written, path)
    seen = os.stat(looks).st_size
    while os.stat(looks).st_size < seen + 2:
        time.sleep(0.001)
"""


@pytest.mark.parametrize(("how", "saves"), [("renamed", 40), ("in place", 25)])
def test_a_name_exists_at_every_moment_of_a_save(
    server: Server, mounted: MountedJob, tmp_path: Path, how: str, saves: int
) -> None:
    """vfs/semantics.md 4: rename replaces in one step."""
    server.store.seed({"file": "-------"}, age=60)
    path, looks = mounted.path / "file", tmp_path / "looks"
    watcher = subprocess.Popen(
        [sys.executable, "-c", _WATCH, str(path), str(looks)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        assert watcher.stdout is not None
        assert readable(watcher.stdout, 20)
        watcher.stdout.readline()
        run(tmp_path, sys.executable, "-c", _SAVE, path, looks, how, str(saves))
        seen = json.loads(watcher.communicate("\n", timeout=20)[0])
    finally:
        watcher.kill()
        watcher.wait()
    assert set(seen) == {f"{what}: {size}" for what, size in (("stat", 7), ("open", None), ("read", 7))}, seen
