"""The cases of system calls (texts/), a group for each call, on a disk and on a mount."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both, beside, place
from tests.support.files import errno_from
from tests.support.mounts import MountedJob, mounting
from tests.support.serverside import below

from jobfs.emulator import Behaviour, EmulatorConfig, Server, running

OWNERS = {"root": "0", "nobody": "NOBODY", "other": "OTHER"}


def sticky(directory: str, entry: str, make: str, remove: str) -> str:
    """What `nobody` may do to an entry of this owner in a sticky directory of that one."""
    may = "" if "nobody" in (directory, entry) else "-> EPERM"
    return f"""
{make} of {entry} in a sticky directory of {directory}
    mkdir d
    chown d {OWNERS[directory]} {OWNERS[directory]}
    chmod d 01777
    {make} d/e
    {make} d/f
    {make} d/g
    chown d/e {OWNERS[entry]} {OWNERS[entry]}
    chown d/f {OWNERS[entry]} {OWNERS[entry]}
    chown d/g NOBODY NOBODY
    mark d
    nobody {remove} d/e {may}
    nobody rename d/g d/f {may}
    nobody rename d/f d/h {may}
    moved d -> {"nothing" if may else "mtime ctime"}
    ls d -> {"e f g" if may else "h"}
    nobody {make} d/i
    chmod d 0777
    nobody rename d/i d/k
    ls d -> {"e f g k" if may else "h k"}
"""


_STICKY = "".join(
    sticky(directory, entry, make, remove)
    for directory, entry in itertools.product(OWNERS, repeat=2)
    for make, remove in (("create", "unlink"), ("mkdir", "rmdir"))
)
_TEXTS = {
    path.stem: path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "texts").glob("*.txt")
}
_GROUPS = {group: cases(group, text) for group, text in sorted({**_TEXTS, "sticky": _STICKY}.items())}
ALL = [case for group in _GROUPS.values() for case in group]

#: Groups that want a mount of their own.
LINKS, READ_ONLY = _GROUPS.pop("links"), _GROUPS.pop("read-only")


@pytest.mark.parametrize("case", [*itertools.chain(*_GROUPS.values())], ids=lambda case: case.name)
def test_calls_answer_as_on_a_disk(both: Both, case: Case) -> None:
    """vfs/semantics.md 2.8, 2.12, 2.13: owners are remembered; links, devices and pipes are EPERM."""
    both.compare(case)


def test_a_length_that_is_too_much_for_the_disk_is_too_much_for_the_mount(both: Both, tmp_path: Path) -> None:
    """vfs/semantics.md is silent: what was written here is a local file. ext4 does not take this length, XFS and tmpfs do."""
    (tmp_path / "long").touch()
    if errno_from(os.truncate, tmp_path / "long", 2**63 - 1):
        (case,) = cases("truncate", "long\n    create f\n    truncate f 9223372036854775807 -> EFBIG")
        both.compare(case)


# -- with --local-symlinks


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MountedJob, Both]]:
    with beside(tmp_path_factory.mktemp("links"), Behaviour(), local_symlinks=True) as made:
        yield made


@pytest.mark.parametrize("case", LINKS, ids=lambda case: case.title)
def test_links_behave_as_on_a_disk(linked: tuple[MountedJob, Both], case: Case) -> None:
    """vfs/semantics.md 2.12: with --local-symlinks a link is kept on this machine only."""
    linked[1].compare(case)


def test_links_survive_a_remount_and_the_server_never_hears_of_them(linked: tuple[MountedJob, Both]) -> None:
    """vfs/semantics.md 2.12: the job never sees them; they are kept like scratch names."""
    mounted = linked[0]
    top = mounted.path / "remounted"
    (top / "bin").mkdir(parents=True)
    (top / "tool").write_bytes(b"text")
    os.symlink("../tool", top / "bin/tool")
    os.symlink("bin", top / "sbin")
    os.rename(top / "bin", top / "libexec")
    os.utime(top / "libexec/tool", ns=(1, 2), follow_symlinks=False)
    mounted.remount()
    assert os.readlink(top / "libexec/tool") == "../tool"
    assert (top / "libexec/tool").read_bytes() == b"text"
    assert (top / "libexec/tool").lstat().st_mtime_ns == 2
    assert os.readlink(top / "sbin") == "bin"
    assert sorted(os.listdir(top)) == ["libexec", "sbin", "tool"]
    assert below(mounted.server, "remounted") == {"libexec": None, "tool": b"text"}
    os.unlink(top / "libexec/tool")
    mounted.remount()
    assert os.listdir(top / "libexec") == []


# -- read-only


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(EmulatorConfig(behaviour=Behaviour()), tmp_path_factory.mktemp("server")) as server:
        server.store.seed({"f": "text", "d/g": "more"})
        yield server


@pytest.fixture(scope="module")
def read_only(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    home = tmp_path_factory.mktemp("read-only")
    disk = home / "disk"
    (disk / "d").mkdir(parents=True)
    (disk / "f").write_text("text")
    (disk / "d/g").write_text("more")
    with (
        mounting(server, home / "home", read_only=True) as mounted,
        place(disk, read_only=True) as here,
        place(mounted.path) as there,
    ):
        yield Both(here, there, make=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of the disk read-only")
@pytest.mark.parametrize("case", READ_ONLY, ids=lambda case: case.title)
def test_a_read_only_mount_answers_as_a_read_only_disk(read_only: Both, server: Server, case: Case) -> None:
    """vfs/semantics.md 4.40: read-only mounts refuse everything that writes with EROFS, and make no changing request."""
    read_only.compare(case)
    assert server.log.changes() == []
