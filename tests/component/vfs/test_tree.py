"""Directories that have no item, names that are placed during a listing, and what a rename looks up."""

from __future__ import annotations

import errno
import os
from collections import Counter

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace

from jobfs.emulator import Server
from jobfs.names import join
from jobfs.namespace import Namespace
from jobfs.nodes import Item

# -- directories without an item


def test_an_implicit_directory_vanishes_when_the_job_removes_its_content(
    server: Server, start: Start
) -> None:
    """vfs/semantics.md 1: what the job changes is visible within the TTL, whatever was changed in that directory here."""
    server.set(implicit_directories="allowed")
    server.store.seed({"x/a": "a", "x/b": "b", "y/c": "c", "y/d/e": "e"}, directories=False, age=60)
    work = start(ttl=0.2)
    assert work.names() == ["x", "y"]
    for path in ("x/a", "y/c"):
        work.vfs.unlink(path)
    work.vfs.rename("y", "z")
    assert work.names() == ["x", "z"]
    assert work.names("z") == ["d"]
    server.store.delete("x/b")
    server.store.delete("z/d/e")
    eventually(lambda: (work.names(), work.names("z")) == (["z"], []))
    assert errno_from(work.vfs.getattr, "x") == errno.ENOENT


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


@pytest.mark.parametrize("directory", ["", "dir"])
def test_an_implicit_directory_gets_new_times_when_its_entries_change(
    server: Server, work: Workspace, directory: str
) -> None:
    """As on a disk: programs that keep what they have seen of a directory look again when its mtime is another one."""
    server.store.seed({"dir/file": "x"}, directories=False)
    seen = [work.vfs.getattr(directory)]
    work.write(join(directory, "new"), b"x")
    seen.append(work.vfs.getattr(directory))
    work.vfs.unlink(join(directory, "new"))
    seen.append(work.vfs.getattr(directory))
    assert seen[0].mtime_ns < seen[1].mtime_ns < seen[2].mtime_ns
    assert seen[0].ctime_ns < seen[1].ctime_ns < seen[2].ctime_ns
    assert len({attr.ino for attr in seen}) == 1


# -- local names, listings, looks


def test_the_items_of_the_job_cover_the_defaults(server: Server, start: Start) -> None:
    """vfs/semantics.md 1.16, 1.18: expertJob covers application; the newest wins; covered items are in the status."""
    server.store.seed({"both": "newer default"}, lifecycle="application")
    server.store.seed({"both": "of the job"}, age=100)
    server.store.seed({"twice": "older"}, age=100)
    server.store.seed({"twice": "newer"}, age=50)
    work = start()
    assert work.names() == ["both", "twice"]
    assert work.read("both") == b"of the job"
    assert work.read("twice") == b"newer"
    assert sorted(covered["path"] for covered in work.vfs.status()["shadowed"]) == ["both", "twice"]


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


def test_a_new_file_placed_during_a_listing_is_in_the_listing(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 1: a name that was there before a listing and after it is in the listing."""
    server.store.seed({"dir/old": "x"})
    assert work.names("dir") == ["old"]
    work.write("dir/new", b"y")
    known = Namespace.children

    def children_before_placing(
        namespace: Namespace, path: str, max_age: float | None = None
    ) -> dict[str, Item]:
        children = known(namespace, path, max_age)
        if path == "dir":
            work.drain()
        return children

    monkeypatch.setattr(Namespace, "children", children_before_placing)
    assert work.names("dir") == ["new", "old"]


def test_a_rename_over_a_file_looks_up_each_name_once(server: Server, start: Start) -> None:
    """vfs/semantics.md 1.8: with a short --ttl each look is a request, so the second would find what the first has found."""
    server.store.seed({"dir/one": b"1", "dir/two": b"22"}, age=60)
    work = start(ttl=0)
    work.names("dir")
    server.log.clear()
    work.vfs.rename("dir/one", "dir/two")
    found = Counter(entry.target for entry in server.log.entries("find"))
    assert found == {"dir": 1, "dir/one": 1, "dir/two": 2}, (
        "the second look is the save's (save/protocol.md R8)"
    )
    assert work.read("dir/two") == b"1"


def test_a_conflict_copy_is_reported_as_created(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 7.2: no program has made it, but a program that watches the directory hears of it."""
    server.store.seed({"dir/file": "x"}, age=60)
    work.vfs.refresh()
    work.vfs.take_differences()
    work.write("dir/file", b"ours")
    server.store.write("dir/file", "the job's")
    work.drain()
    work.vfs.refresh()
    (copy,) = set(work.names("dir")) - {"file"}
    assert [(found.kind, found.path) for found in work.vfs.take_differences()] == [("created", f"dir/{copy}")]
