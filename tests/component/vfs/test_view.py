"""The merged view: what was changed here over what the server has."""

from __future__ import annotations

import errno
import os

import pytest
from tests.support.files import errno_from
from tests.support.workspaces import CALLER, Workspace

from jobfs.emulator import Server
from jobfs.names import join
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.state.records import Verb
from jobfs.vfs.view import check_new_name


def test_a_new_file_that_is_placed_while_its_directory_is_listed_is_in_the_list(
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
def test_an_implicit_directory_has_new_times_when_its_entries_change(
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


def test_a_path_shows_the_file_then_the_change_then_the_server(server: Server, work: Workspace) -> None:
    """design.md, What a path shows: there is no second structure that must be kept in step."""
    server.store.seed({"dir/a": "1", "dir/b": "2", "dir/c": "3"}, age=60)
    view, state = work.vfs._view, work.vfs._state
    a, b = view.get("dir/a"), view.get("dir/b")
    assert isinstance(a, Item)
    assert isinstance(b, Item)
    change = state.plan_change(Verb.MOVE, "dir/d", shows={"dir/a": None, "dir/b": a})
    assert errno_from(view.get, "dir/a") == errno.ENOENT
    assert view.get("dir/b") is a
    assert view.list("dir") == {"b": a, "c": view.get("dir/c")}
    work.write("dir/a", b"new")
    assert view.get("dir/a") is state.index.file_at("dir/a") is not None
    assert set(view.list("dir")) == {"a", "b", "c"}
    state.end_change(change)
    assert view.get("dir/b") == b


def test_the_attributes_for_a_listing_are_those_of_a_stat(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 2: what was changed here shows its attributes in a listing as it does in a `stat`; nothing is asked."""
    server.store.seed({"dir/a": "1", "dir/b": "22", "dir/sub/x": "3", "dir/gone": "4"}, age=60)
    work.names("dir")
    work.write("dir/b", b"changed")
    work.write("dir/new", b"new")
    work.vfs.mkdir("dir/made", 0o700, CALLER)
    work.vfs._state.plan_change(Verb.REMOVE, "dir/gone", shows={"dir/gone": None})
    names = [name for name, _ in work.vfs.listdir("dir")]
    asked = server.log.count()
    attrs = {name: work.vfs.cached_getattr(f"dir/{name}") for name in names}
    assert set(attrs) == {"a", "b", "new", "sub", "made"}
    assert errno_from(work.vfs.cached_getattr, "dir/gone") == errno.ENOENT
    assert server.log.count() == asked
    assert attrs == {name: work.vfs.getattr(f"dir/{name}") for name in names}


def test_what_was_changed_or_opened_here_since_a_listing_is_not_as_listed(
    server: Server, work: Workspace
) -> None:
    """vfs/semantics.md 2: attributes that a listing computes once are shown only while a `stat` would show the same."""
    server.store.seed(
        {"dir/a": "1", "dir/b": "22", "dir/open": "3", "dir/sub/x": "4", "dir/gone": "5"}, age=60
    )
    work.names("dir")
    work.write("dir/b", b"changed")
    handle = work.vfs.open("dir/open", os.O_RDONLY).fh
    work.vfs._state.plan_change(Verb.REMOVE, "dir/gone", shows={"dir/gone": None})
    asked = server.log.count()
    as_listed = {
        name
        for name in ("a", "b", "open", "sub", "gone", "missing")
        if work.vfs.may_repeat_listed_attr(f"dir/{name}")
    }
    assert (as_listed, server.log.count()) == ({"a", "sub"}, asked)
    work.vfs.release(handle)
    assert work.vfs.may_repeat_listed_attr("dir/open")
    work.vfs._namespace.invalidate("dir/a")
    assert not work.vfs.may_repeat_listed_attr("dir/a"), "a look-up would ask"


def test_a_size_that_has_to_be_asked_for_is_not_in_a_listing(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 2: a size that the server does not tell is found out by a `stat`."""
    server.set(sizes="omitted")
    server.store.seed({"file": "content"}, age=60)
    assert work.names() == ["file"]
    assert errno_from(work.vfs.cached_getattr, "file") == errno.ENOENT
    assert work.vfs.getattr("file").size == 7
    assert work.vfs.cached_getattr("file").size == 7
    assert not work.vfs.may_repeat_listed_attr("file"), "the listing did not have that size"


def test_a_new_name_leaves_room_for_the_slash_that_the_server_may_count() -> None:
    """api/wire.md: 1,024 units of UTF-16, the leading slash among them where the server's paths have one."""
    directory = "/".join(["d" * 200] * 5) + "/"
    for name in ("n" * 18, "\N{GRINNING FACE}" * 9):
        check_new_name(directory + name)
        assert errno_from(check_new_name, directory + name + "n") == errno.ENAMETOOLONG
