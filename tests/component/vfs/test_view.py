"""The merged view: what was changed here over what the server has."""

from __future__ import annotations

import pytest
from tests.support.workspaces import Workspace

from jobfs.emulator import Server
from jobfs.names import join
from jobfs.namespace import Namespace
from jobfs.nodes import Item


def test_a_new_file_placed_during_a_listing_is_in_the_listing(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 1: a name that was there before a listing and after it is in the listing."""
    server.store.seed({"dir/old": "x"})
    assert work.names("dir") == ["old"]
    work.write("dir/new", b"y")
    known = Namespace.children

    def placed_meanwhile(namespace: Namespace, path: str, max_age: float | None = None) -> dict[str, Item]:
        children = known(namespace, path, max_age)
        if path == "dir":
            work.drain()
        return children

    monkeypatch.setattr(Namespace, "children", placed_meanwhile)
    assert work.names("dir") == ["new", "old"]


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
