"""Root and other users of the same machine: what is not theirs is not shown to them, they can mount, and fstab can."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.mounts import LET_GO, Mount, environment

from jobfs.emulator import Server

pytestmark = pytest.mark.needs_root("only root can act as another user, and has a mount namespace")

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


def test_only_the_mounting_user_can_read_its_own_files(server: Server, mount: Mount, shared: Path) -> None:
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


# mount(8) and fstab, which call jobfs though it is not in their PATH (vfs/semantics.md 6)

#: The program in the virtual environment of these tests.
PROGRAM = Path(sys.executable).parent / "jobfs"
LINKS = ("/sbin/mount.fuse.jobfs", "/sbin/mount.jobfs", "/sbin/umount.fuse.jobfs")
#: The PATH of a machine on which jobfs is installed in another place.
PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: In a mount namespace: it gets an /sbin of its own, with everything that is in the real one.
_OWN_SBIN = f"""{LET_GO}
mount -t tmpfs tmpfs "$1" && mkdir "$1/new" "$1/work" &&
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$1/new,workdir=$1/work" overlay /usr/sbin && echo ready && exec sleep 600
"""
Machine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Runs commands in a mount namespace; what they mount, and what they install in /sbin, is gone with it."""
    place, known = tmp_path / "sbin", environment(tmp_path / "home", None)
    known.pop("PYTHONPATH")
    place.mkdir()
    words = ["unshare", "--mount", "sh", "-c", _OWN_SBIN, "sh", str(place)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as holder:

        def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
            enter = ("nsenter", "-m", "-t", str(holder.pid), "--", *map(str, command))
            env = {**known, "PATH": PLACES}
            return subprocess.run(enter, env=env, capture_output=True, text=True, timeout=40, cwd="/")

        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            yield run
            # The process that serves a mount ends once it is unmounted.
            run("umount", "-a", "-i", "-l", "-t", "fuse.jobfs")
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_fstab_mounts_with_the_installed_helper(server: Server, machine: Machine, tmp_path: Path) -> None:
    """vfs/semantics.md 6.2: also `jobfs JOB DIR -o …` as `mount -t fuse.jobfs` and fstab call it."""
    directory, key = tmp_path / "mnt", tmp_path / "key"
    directory.mkdir()
    key.write_text(server.key)
    key.chmod(0o600)
    places = f"state_dir={tmp_path / 'state'},cache_dir={tmp_path / 'cache'}"
    options = f"base_url={server.url},api_key_file={key},{places}"
    server.store.seed({"file": "content"})
    table = tmp_path / "fstab"
    line = "noauto,user,_netdev,nofail,x-systemd.automount,x-systemd.requires=network-online.target,write_back_delay=600"
    table.write_text(f"{server.job} {directory} fuse.jobfs {line},{options} 0 0\n")

    def output(*command: str | Path) -> str:
        """Return the stdout of a command that succeeds."""
        done = machine(*command)
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    before = machine("mount", "-T", table, directory)
    assert (before.returncode, "jobfs: not found" in before.stderr) == (127, True)
    assert output(PROGRAM, "install-helper") == "".join(f"linked {link} to {PROGRAM}\n" for link in LINKS)

    assert output("mount", "-T", table, directory).startswith(f"mounted {server.job} at {directory}")
    shown = output("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", directory)
    assert shown.split()[:2] == [server.job, "fuse.jobfs"]
    # The options that `user` implies.
    assert {"noexec", "nosuid", "nodev"} <= set(shown.split()[2].split(","))
    assert output("cat", directory / "file") == "content"
    output("sh", "-c", f"echo mine > {directory}/new")
    # It is known by its source: nothing is mounted twice.
    table.write_text(table.read_text().replace("noauto", "auto"))
    assert output("mount", "-T", table, "-a") == ""
    # When umount(8) returns, all is sent.
    assert machine("sh", "-c", f"exec 3< {directory}/file; umount {directory}").returncode == 1
    output("umount", directory)
    assert server.store.read("new") == b"mine\n"
    assert machine("findmnt", directory).returncode != 0
    # The other type; an umount that does not find the serving process unmounts as without a helper.
    output("mount", "-n", "-s", "-v", "-t", "jobfs", server.job, directory, "-o", f"ro,{options}")
    assert output("findmnt", "-n", "-o", "FSTYPE,OPTIONS", directory).startswith("fuse.jobfs ro,")
    output("env", "XDG_RUNTIME_DIR=/dev/null", "umount", directory)
    assert machine("findmnt", directory).returncode != 0
