"""`jobfs recover JOB --save TO` after a kill: the copies are what the next mount sends (vfs/semantics.md 6, Unsent files without
a server).
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

from tests.support.files import errno_from, on_disk
from tests.support.mounts import Mount, MountedJob, environment, jobfs, run
from tests.support.serverside import untimed, visible

from jobfs.emulator import Server


def saved_to(mounted: MountedJob, to: Path) -> subprocess.CompletedProcess[str]:
    """Without a key and without a way to the server."""
    return jobfs(
        "recover", mounted.server.job, "--save", to, "--state-dir", mounted.state, "--base-url", "http://127.0.0.1:9",
        home=mounted.home, env=environment(mounted.home, None),
    )  # fmt: skip


def picture(top: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Everything below a directory, with its mode and time."""
    found = {}
    for path in (top, *top.rglob("*")):
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        found[path] = (facts.st_mode, facts.st_mtime_ns, content)
    return found


def test_the_copies_equal_what_the_next_mount_sends(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.19, 6.20."""
    server.store.seed({"old.txt": "old", "half.txt": "old", "untouched": "x"}, age=60)
    mounted = mount(write_back_delay=60)
    path, to = mounted.path, mounted.home / "to"
    (path / "old.txt").write_bytes(b"new content")
    (path / "scratch~").write_bytes(b"of this machine only")
    script = "echo run > 'it'\\''s a \"script\"'; chmod 750 it*; : > empty; touch -d @1000000000 empty"
    run(path, "sh", "-c", script)
    (path / "moved").write_bytes(b"then renamed")
    (path / "moved").rename(path / "renamed")
    (path / "gone").write_bytes(b"then removed")
    (path / "gone").unlink()
    half = os.open(path / "half.txt", os.O_WRONLY | os.O_TRUNC)
    os.write(half, b"half of the new")
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, b"closed\n")
    os.close(os.dup(log))
    os.write(log, b"not closed")
    os.fstat(log)
    mounted.kill()
    for handle in (half, log):
        errno_from(os.close, handle)
    before = picture(mounted.state)
    done = saved_to(mounted, to)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert picture(mounted.state) == before, "nothing has changed there"
    assert f'copied: {chr(39)}it{chr(39)}"\'"\'s a "script"\' (4B)\n' in done.stdout
    assert re.search(r"copied: half\.recovered-\d+T\d+Z\.txt \(15B\): was never closed\n", done.stdout)
    facts = (to / 'it\'s a "script"').stat(), (to / "empty").stat()
    assert (stat.S_IMODE(facts[0].st_mode), facts[1].st_mtime, facts[1].st_size) == (0o750, 1e9, 0)
    copied = untimed(on_disk(to))
    assert copied == {
        "old.txt": b"new content", "it's a \"script\"": b"run\n", "empty": b"", "renamed": b"then renamed",
        "half.recovered.txt": b"half of the new", "log.txt": b"closed\n",
        "log.recovered.txt": b"closed\nnot closed",
    }  # fmt: skip
    again = saved_to(mounted, to)
    assert (again.returncode, again.stdout, again.stderr.count("exists\n")) == (1, "", len(copied))
    mounted.mount()
    mounted.wait_until_settled()
    assert untimed(visible(server)) == {"half.txt": b"old", "untouched": b"x", **copied}
