"""The merged view: what was changed here over what the server has."""

from __future__ import annotations

import errno
import stat

import pytest
from tests.support.files import errno_from
from tests.support.workspaces import CALLER, Workspace

from jobfs.emulator import Server
from jobfs.errors import FsError
from jobfs.names import NAME_MAX, PATH_MAX
from jobfs.nodes import Permission
from jobfs.vfs.view import check_name, check_new_name, with_permission


@pytest.mark.parametrize(
    ("kind", "permission", "expected"),
    [
        ("x", "readWrite", stat.S_IFREG | 0o644),
        ("x", "readOnly", stat.S_IFREG | 0o444),
        (None, "readWrite", stat.S_IFDIR | 0o755),
        (None, "readOnly", stat.S_IFDIR | 0o555),
    ],
)
def test_the_mode_is_made_of_type_and_permission(
    server: Server, work: Workspace, kind: str | None, permission: str, expected: int
) -> None:
    """semantics 2.3, 2.7: `readWrite` 0644 / 0755, `readOnly` 0444 / 0555, less --umask; uid and gid: --uid/--gid."""
    server.store.seed({"item": kind}, permission=permission)  # type: ignore[arg-type]
    attr = work.vfs.getattr("item")
    assert attr.mode == expected
    assert (attr.uid, attr.gid, attr.size) == (1234, 4321, len(kind or ""))


def test_what_is_not_there_says_why(server: Server, work: Workspace) -> None:
    server.store.seed({"file": "x"})
    assert errno_from(work.vfs.getattr, "gone") == errno.ENOENT
    assert errno_from(work.vfs.getattr, "gone/file") == errno.ENOENT
    assert errno_from(work.vfs.getattr, "file/below") == errno.ENOTDIR
    assert errno_from(work.vfs.listdir, "file") == errno.ENOTDIR


def test_unsent_files_are_listed_with_the_servers(server: Server, work: Workspace) -> None:
    server.store.seed({"dir/a": "x", "dir/b": "y"})
    work.write("dir/c", b"new")
    work.write("dir/a", b"changed")
    assert {name: attr.size for name, attr in work.vfs.listdir("dir")} == {"a": 7, "b": 1, "c": 3}


def test_readonly_items_are_guarded(server: Server, work: Workspace) -> None:
    """semantics 4: open for writing EACCES, unlink/rename/overwrite EPERM, creating in a readOnly directory EACCES."""
    server.store.seed({"fixed": "x", "dir": None}, permission="readOnly")
    server.store.seed({"free": "y"})
    assert errno_from(work.vfs.open, "fixed", 1) == errno.EACCES
    assert errno_from(work.vfs.truncate, "fixed", 0) == errno.EACCES
    assert errno_from(work.vfs.unlink, "fixed") == errno.EPERM
    assert errno_from(work.vfs.rename, "fixed", "other") == errno.EPERM
    assert errno_from(work.vfs.rename, "free", "fixed") == errno.EPERM
    assert errno_from(work.vfs.create, "dir/file", 0o644, 1, CALLER) == errno.EACCES
    assert errno_from(work.vfs.mkdir, "dir/sub", 0o755, CALLER) == errno.EACCES
    assert errno_from(work.vfs.access, "fixed", 2, CALLER) == errno.EACCES
    assert errno_from(work.vfs.access, "free", 2, CALLER) == 0
    assert server.log.changes() == []


def test_a_name_that_the_api_cannot_hold_is_refused() -> None:
    check_name("n" * NAME_MAX)
    for path in ("n" * (NAME_MAX + 1), "é" * 128, "d/" * (PATH_MAX // 2) + "e"):
        with pytest.raises(FsError) as caught:
            check_name(path)
        assert caught.value.errno == errno.ENAMETOOLONG


def test_a_new_name_leaves_room_for_the_slash_that_the_server_may_count() -> None:
    """wire-facts.md: 1,024 units of UTF-16, the leading slash among them where the server's paths have one."""
    directory = "/".join(["d" * 200] * 5) + "/"
    for name in ("n" * 18, "\N{GRINNING FACE}" * 9):
        check_new_name(directory + name)
        check_name(directory + name + "n")
        with pytest.raises(FsError) as caught:
            check_new_name(directory + name + "n")
        assert caught.value.errno == errno.ENAMETOOLONG
        with pytest.raises(FsError):
            check_name(directory + name + "nn")


def test_a_remembered_mode_agrees_with_the_permission() -> None:
    read_only, read_write = Permission.READ_ONLY, Permission.READ_WRITE
    assert with_permission(0o750, read_write, read_write) == 0o750
    assert with_permission(0o775, read_write, read_only) == 0o555
    assert with_permission(0o555, read_only, read_write) == 0o755
