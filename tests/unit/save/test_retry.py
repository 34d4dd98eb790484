"""`jobfs retry` and `jobfs discard`: nothing is forgotten (vfs/semantics.md 4)."""

from __future__ import annotations

import errno
import math
import time
from pathlib import Path

import pytest
from tests.support.boundaries import watch
from tests.support.files import errno_from

from jobfs.errors import FsError
from jobfs.nodes import Kind
from jobfs.save import discard, retry
from jobfs.state import File, edit

from .world import World, begun, opened

OLD, NEW = b"old", b"new"


def refused_file(world: World, path: str = "file") -> File:
    file = world.closed(path, NEW)
    world.state.write(edit(file, refused="too large", refused_errno=errno.EFBIG))
    return file


def test_a_refused_file_is_retried(world: World) -> None:
    files = [refused_file(world, "dir/a"), refused_file(world, "b")]
    world.closed("dir/waiting", NEW)
    assert retry(world.write_back, "dir") == ["dir/a"]
    assert [(file.refused, file.refused_errno) for file in files] == [("", 0), ("too large", errno.EFBIG)]
    assert files[0].change is not None
    assert files[0].change.due <= time.monotonic()
    with pytest.raises(FsError, match="b was refused by the server: too large"):
        world.write_back.wait_until_uploaded(files[1])
    assert retry(world.write_back, None) == ["b"]
    for started in (False, True):
        files[0].change.started, files[0].change.attempts, files[0].change.due = started, 1, math.inf
        assert retry(world.write_back, "dir") == ["dir/a"]
        assert files[0].change.due <= time.monotonic()
    world.write_back.wait_until_uploaded(files[1])
    assert world.client.contents[files[1].item_id] == NEW


@pytest.mark.parametrize("path", ["file", ""])
def test_a_discarded_file_is_kept_and_the_servers_version_shown(world: World, path: str) -> None:
    """vfs/semantics.md 4: `jobfs discard`; nothing is forgotten."""
    file = refused_file(world)
    if path:
        file.local = None  # it could not be taken up after a restart
    ((given_up, kept),) = discard(world.write_back, path)
    assert (given_up, Path(kept).read_bytes()) == ("file", NEW)
    assert world.state.index.file_at("file") is None
    assert world.state.index.file_by_number(file.ino) is None
    assert world.state.changes == {}
    assert len(world.rows(File)) == 0
    assert world.namespace.updates == ["touch file"]
    assert world.client.done == []
    with pytest.raises(FsError, match=f"^nothing is unsent at {path or 'this mount'}$") as caught:
        discard(world.write_back, path)
    assert caught.value.errno == errno.ENOENT


def test_the_content_of_a_directory_is_discarded_before_it(world: World) -> None:
    directory, file = world.state.new_local_file(Kind.DIRECTORY, "dir"), world.closed("dir/file", NEW)
    world.state.write(edit(directory, mode=0o700))
    assert [path for path, _ in discard(world.write_back, "dir")] == ["dir/file", "dir"]
    file = opened(world.closed("dir/file", NEW))
    with pytest.raises(FsError, match=r"^dir/file is open in a program: close it first$") as caught:
        discard(world.write_back, "")
    assert caught.value.errno == errno.EBUSY
    file.handles.clear()
    world.closed("dir/other", NEW)
    watch(world.state.journal, lambda step: world.state.apply_in_memory(file, generation=0))
    with pytest.raises(FsError, match=r"^dir/file has just been sent: nothing is left to discard$") as caught:
        discard(world.write_back, "")
    assert caught.value.errno == errno.ENOENT


def test_a_discard_undoes_a_started_save(world: World) -> None:
    file, change = begun(world)
    assert errno_from(discard, world.write_back, "file") == errno.EBUSY
    assert file.needs_upload, "it has set something aside"
    world.client.put("o", "file", OLD)
    change.asides.clear()
    discard(world.write_back, "file")
    world.clean_up()
    assert world.client.paths == {"o": "file"}
    assert (world.state.backlog().files, world.state.changes, file.generation) == ([], {}, 0)
