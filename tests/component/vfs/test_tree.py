"""Changes of names: mkdir, rmdir, rename, unlink; scratch names and links, which stay on this machine."""

from __future__ import annotations

import os

import pytest
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace

from jobfs import names
from jobfs.emulator import Server
from jobfs.vfs.view import Node, View


def test_an_implicit_directory_outlives_its_last_file(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 1.19: also if the item goes later. An operation that needs the real item creates it."""
    files = {"dir/file": b"x", "kept/file": b"x", "read/file": bytes(9 << 20)}
    server.store.seed(files, directories=False, age=60)
    numbers = {directory: work.vfs.getattr(directory).ino for directory in ("dir", "kept", "read")}
    work.vfs.unlink("dir/file")
    with work.opening("read/file", os.O_RDONLY):
        work.vfs.unlink("read/file")
    work.vfs.rename("kept/file", "kept/file~")
    eventually(lambda: list(server.store.tree()) == [])
    assert {name: attr.ino for name, attr in work.vfs.listdir("")} == numbers
    assert (work.names("dir"), work.names("read"), work.names("kept")) == ([], [], ["file~"])
    work.vfs.rmdir("dir")
    work.vfs.rename("read", "moved")
    assert (work.exists("dir"), work.names(), [*server.store.tree()]) == (False, ["kept", "moved"], ["moved"])


# -- scratch names


def test_scratch_files_cost_no_request_and_survive_a_remount(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.14, 4.16, Scratch names: they stay on this machine; fsync of one syncs the local disk."""
    work.write(".file.swp", b"swap", fsync=True)
    work.vfs.rename(".file.swp", ".file.swo")
    assert server.log.changes() == []
    work.remount()
    assert work.read(".file.swo") == b"swap"
    assert work.names() == [".file.swo"]
    work.vfs.unlink(".file.swo")
    work.remount()
    assert work.names() == []
    assert server.log.changes() == []


def test_a_local_name_below_a_renamed_directory_survives_a_remount(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.14, 4.28: a directory is renamed with everything under it, here too."""
    server.store.seed({"dir/file": "x"}, age=60)
    work.write("dir/.file.swp", b"local")
    work.vfs.rename("dir", "moved")
    work.remount()
    assert (work.names(), work.names("moved")) == (["moved"], [".file.swp", "file"])
    assert work.read("moved/.file.swp") == b"local"


@pytest.mark.parametrize("by_job", [False, True])
def test_a_renamed_directory_keeps_its_names_despite_old_scratch_files(
    server: Server, work: Workspace, by_job: bool
) -> None:
    """vfs/semantics.md 4.50: the scratch file of the deleted directory is kept beside, also after a remount."""
    backup = {"old/file.txt~": "shown"} if by_job else {}
    server.store.seed({"old/file.txt": "x", "new/other": "y", **backup}, age=60)
    work.write("new/file.txt~", b"hidden")
    server.store.delete("new")
    work.remount()
    eventually(lambda: not work.exists("new"))
    if not by_job:
        work.write("old/file.txt~", b"shown")
    work.vfs.rename("old", "new")
    for _ in range(2):
        kept, _, scratch = work.names("new")
        assert (work.read(f"new/{scratch}"), work.read(f"new/{kept}")) == (b"shown", b"hidden")
        assert names.parse_second_version(kept) == ("conflict", scratch) == ("conflict", "file.txt~")
        work.remount()
    work.drain()
    assert sorted(visible(server)) == ["new", "new/file.txt", *(["new/file.txt~"] if by_job else [])]


@pytest.mark.parametrize("sent", [False, True])
def test_a_renamed_directory_keeps_its_names_despite_old_unsent_files(
    server: Server, start: Start, sent: bool
) -> None:
    """vfs/semantics.md 4.50: what was not sent before the job deleted its directory is kept beside, and sent."""
    server.store.seed({"old/other": "x", "new/other": "y"}, age=60)
    work = start(write_back_delay=60.0)
    assert (work.names("new"), work.names("old")) == (["other"], ["other"])
    work.write("new/file", b"hidden")
    work.write("old/file", b"shown", fsync=sent)
    server.store.delete("new")
    eventually(lambda: not work.exists("new"))
    work.vfs.rename("old", "new")
    kept = work.names("new")[1]
    expected = {"file": b"shown", kept: b"hidden", "other": b"x"}
    for _ in range(2):
        assert {name: work.read(f"new/{name}") for name in work.names("new")} == expected
        work.remount()
    assert names.parse_second_version(kept) == ("conflict", "file")
    work.drain()
    assert visible(server) == {"new": None, **{f"new/{name}": data for name, data in expected.items()}}


@pytest.mark.parametrize("cached", [True, False])
def test_attributes_of_a_scratch_file_survive_a_rename_to_a_real_name(
    server: Server, work: Workspace, cached: bool
) -> None:
    """vfs/semantics.md 2.11: modes, owners and times are kept for the item,
    also while it has a scratch name (vfs/semantics.md 4, Renames to a scratch name).
    """
    server.store.seed({"one": "1", "two": "2"}, age=60)
    for name in ("one", "two"):
        if cached:
            work.read(name)
        work.vfs.rename(name, f"{name}~")
        work.vfs.chmod(f"{name}~", 0o751)
        work.vfs.chown(f"{name}~", 77, 88)
        work.vfs.utimens(f"{name}~", 5, 6)
    work.vfs.rename("one~", "one")
    work.vfs.rename("two~", "three")
    for name in ("one", "three"):
        attr = work.vfs.getattr(name)
        assert (attr.mode & 0o7777, attr.uid, attr.gid, attr.atime_ns, attr.mtime_ns) == (0o751, 77, 88, 5, 6)


# -- looks


def test_a_rename_over_a_file_looks_up_each_name_once(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 1.8: with a short --ttl each look may be a request, so the second would find what the first has found."""
    server.store.seed({"dir/one": b"1", "dir/two": b"22"}, age=60)
    looks: list[str] = []
    find = View.find

    def noting(view: View, path: str, max_age: float | None = None) -> Node | None:
        looks.append(path)
        return find(view, path, max_age)

    monkeypatch.setattr(View, "find", noting)
    work.vfs.rename("dir/one", "dir/two")
    assert sorted(looks) == ["dir", "dir/one", "dir/two"]
    assert work.read("dir/two") == b"1"
