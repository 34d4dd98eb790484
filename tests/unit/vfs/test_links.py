"""Symbolic links, kept on this machine."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.workspaces import CALLER, Workspace, workspace

from jobfs.emulator import Server


@pytest.fixture
def linked(server: Server, tmp_path: Path) -> Iterator[Workspace]:
    with workspace(server, tmp_path / "home", local_symlinks=True) as work:
        yield work


def test_a_link_says_what_it_was_given_and_makes_no_request(server: Server, linked: Workspace) -> None:
    """semantics 2.12: with --local-symlinks a link is kept on this machine only."""
    server.store.seed({"dir/file": "x"}, age=60)
    server.log.clear()
    linked.vfs.symlink("dir/link", "../Ü", CALLER)
    attr = linked.vfs.getattr("dir/link")
    assert (stat.filemode(attr.mode), attr.size, attr.uid) == ("lrwxrwxrwx", 5, CALLER.uid)
    assert linked.vfs.readlink("dir/link") == "../Ü"
    assert linked.names("dir") == ["file", "link"]
    assert server.log.changes() == []
    linked.stop()
    linked.start()
    assert linked.vfs.readlink("dir/link") == "../Ü"


def test_a_link_is_not_made_where_something_is(server: Server, linked: Workspace) -> None:
    server.store.seed({"dir/file": "x"}, age=60)
    server.store.seed({"closed/file": "x"}, age=60)
    server.store.set_permission("closed", "readOnly")
    assert errno_from(linked.vfs.symlink, "dir/file", "x", CALLER) == errno.EEXIST
    assert errno_from(linked.vfs.symlink, "gone/link", "x", CALLER) == errno.ENOENT
    assert errno_from(linked.vfs.symlink, "dir/file/link", "x", CALLER) == errno.ENOTDIR
    assert errno_from(linked.vfs.symlink, "closed/link", "x", CALLER) == errno.EACCES


def test_what_is_no_link_cannot_be_read_as_one(server: Server, linked: Workspace) -> None:
    server.store.seed({"dir/file": "x"}, age=60)
    for path in ("dir", "dir/file", ".jobfs", ".jobfs/job.json"):
        assert errno_from(linked.vfs.readlink, path) == errno.EINVAL
    assert errno_from(linked.vfs.readlink, "gone") == errno.ENOENT


def test_a_link_takes_the_name_of_an_item_or_of_an_unsent_file(server: Server, linked: Workspace) -> None:
    server.store.seed({"item": "x", "other": "y"}, age=60)
    linked.write("unsent", b"z")
    linked.write("scratch~", b"z")
    for name in ("item", "unsent", "scratch~"):
        linked.vfs.symlink("link", name, CALLER)
        linked.vfs.rename("link", name)
        assert linked.vfs.readlink(name) == name
    linked.drain()
    assert linked.names() == ["item", "other", "scratch~", "unsent"]
    assert server.store.tree() == {"other": b"y"}
