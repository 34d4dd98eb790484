"""Mounting by others: mount(8) and fstab call jobfs, which is not in their PATH (vfs/semantics.md 6)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.namespace import Namespace, namespace

from jobfs.emulator import Server

#: The program in the virtual environment of these tests.
PROGRAM = Path(sys.executable).parent / "jobfs"
LINKS = ("/sbin/mount.fuse.jobfs", "/sbin/mount.jobfs", "/sbin/umount.fuse.jobfs")


pytestmark = pytest.mark.needs_root("only root has a mount namespace, in which it installs the helper")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Namespace]:
    with namespace(tmp_path / "home") as machine:
        yield machine


def test_fstab_mounts_with_the_installed_helper(server: Server, machine: Namespace, tmp_path: Path) -> None:
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

    before = machine.run("mount", "-T", table, directory)
    assert (before.returncode, "jobfs: not found" in before.stderr) == (127, True)
    assert machine.output(PROGRAM, "install-helper") == "".join(
        f"linked {link} to {PROGRAM}\n" for link in LINKS
    )

    assert machine.output("mount", "-T", table, directory).startswith(f"mounted {server.job} at {directory}")
    shown = machine.output("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", directory)
    assert shown.split()[:2] == [server.job, "fuse.jobfs"]
    # The options that `user` implies.
    assert {"noexec", "nosuid", "nodev"} <= set(shown.split()[2].split(","))
    assert machine.output("cat", directory / "file") == "content"
    machine.output("sh", "-c", f"echo mine > {directory}/new")
    # It is known by its source: nothing is mounted twice.
    table.write_text(table.read_text().replace("noauto", "auto"))
    assert machine.output("mount", "-T", table, "-a") == ""
    # When umount(8) returns, all is sent.
    assert machine.run("sh", "-c", f"exec 3< {directory}/file; umount {directory}").returncode == 1
    machine.output("umount", directory)
    assert server.store.read("new") == b"mine\n"
    assert machine.run("findmnt", directory).returncode != 0
    # The other type; an umount that does not find the serving process unmounts as without a helper.
    machine.output("mount", "-n", "-s", "-v", "-t", "jobfs", server.job, directory, "-o", f"ro,{options}")
    assert machine.output("findmnt", "-n", "-o", "FSTYPE,OPTIONS", directory).startswith("fuse.jobfs ro,")
    machine.output("env", "XDG_RUNTIME_DIR=/dev/null", "umount", directory)
    assert machine.run("findmnt", directory).returncode != 0
