"""Other users of the same machine: what is not theirs is not shown to them, and they can mount themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.mounts import Mount, environment
from tests.support.namespace import LET_GO

from jobfs.emulator import Server

pytestmark = pytest.mark.needs_root("only root can act as another user")

OTHER = 65534
AS_OTHER = ("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups")


def as_other(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a program as another user, who has no rights here; its output is captured."""
    return subprocess.run(
        [*AS_OTHER, *map(str, command)], cwd="/", capture_output=True, text=True, timeout=30, check=check
    )


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory in which every user may make things, as /tmp is."""
    path = Path(tempfile.mkdtemp(prefix="jobfs-shared-"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def test_only_the_user_that_mounted_can_read_the_mounts_own_files(
    server: Server, mount: Mount, shared: Path
) -> None:
    server.store.write("file", b"for all")
    job = mount(start=False, allow_other=True, uid=OTHER)
    job.path = shared / "mnt"
    job.path.mkdir()
    job.mount()
    assert as_other("cat", job.path / "file").stdout == "for all"
    own = job.path / ".jobfs"
    for path, mode in ((own, 0o40500), *((own / name, 0o100400) for name in os.listdir(own))):
        info = path.stat()
        assert (info.st_mode, info.st_uid, info.st_gid) == (mode, os.geteuid(), os.getegid())
    for command in ("cat", own / "status.json"), ("ls", own):
        refused = as_other(*command, check=False)
        assert refused.returncode != 0
        assert "Permission denied" in refused.stderr
    assert b'"job"' in (own / "job.json").read_bytes() + (own / "status.json").read_bytes()
    job.umount()


#: As root, in a mount namespace of its own: an ordinary user may mount, and reach the Python that runs this.
_PREPARE = f"""{LET_GO}
set -e
mkdir "$HOME/dev" && mount -t tmpfs none "$HOME/dev"
mknod -m 666 "$HOME/dev/fuse" c 10 229 && mount --bind "$HOME/dev/fuse" /dev/fuse
if [ "$(stat -c %a /root)" = 700 ]; then
    mkdir "$HOME/python" && mount --bind "$BASE" "$HOME/python"
    mount -t tmpfs none /root && chmod 755 /root
    mkdir -p "$BASE" && mount --bind "$HOME/python" "$BASE"
fi
exec "$@"
"""

#: The ordinary user's script. A program that this user started is seen in the mount; the mount's own secrets are not, by default.
_AS_USER = """
jobfs() { "$PYTHON" -m jobfs "$@"; }
secrets() {
    process=$(jobfs status "$HOME/mnt" | sed -n 's/^mount .*process \\([0-9]*\\).*/\\1/p')
    cat "/proc/$process/environ" > "$HOME/environ" && echo environ
    sed -n 's/^Max core file size *\\([^ ]*\\) .*/core \\1/p' "/proc/$process/limits"
}
set -e
jobfs mount "$JOB" "$HOME/mnt" > "$HOME/said"
printf abc > "$HOME/mnt/f"
sleep 60 < "$HOME/mnt/f" &
! jobfs umount "$HOME/mnt"
kill $!
secrets
jobfs umount "$HOME/mnt"
jobfs mount "$JOB" "$HOME/mnt" --allow-core-dumps > "$HOME/said"
echo allowed
secrets
jobfs umount "$HOME/mnt"
"""


def test_an_ordinary_user_can_mount_and_the_key_is_hidden_from_others(server: Server, shared: Path) -> None:
    for place in (shared / "mnt", shared / "run", shared):
        place.mkdir(exist_ok=True)
        place.chmod(0o700)
        os.chown(place, OTHER, OTHER)
    words = ["unshare", "-m", "sh", "-c", _PREPARE, "sh", *AS_OTHER, "sh", "-c", _AS_USER]
    given = {
        "JOB": server.job,
        "JOBFS_BASE_URL": server.url,
        "PYTHON": sys.executable,
        "BASE": sys.base_prefix,
    }
    env = {**environment(shared, server.key), **given}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=80, cwd="/")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "is in use by sleep (" in done.stderr, said
    default, _, allowed = done.stdout.partition("allowed\n")
    assert default == "core 0\n", said
    assert allowed.startswith("environ\ncore "), said
    assert server.store.read("f") == b"abc"
