"""What a person decides about saves that do not get through: try again, or give them up (vfs/semantics.md 4)."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from jobfs import names
from jobfs.errors import FsError
from jobfs.state import Change, File, edit
from jobfs.state.records import Aside, Base, Stage

from .world import TID, World, hidden, sha

OLD, NEW = b"old", b"new"


def refused(world: World, path: str = "file") -> File:
    file = world.closed(path, NEW)
    world.state.write(edit(file, refused="too large", refused_errno=errno.EFBIG))
    return file


def begun(world: World, stage: Stage = Stage.STAGED) -> tuple[File, Change]:
    """A save over `o` that has set that aside."""
    item = world.client.put("o", hidden("file"), OLD)
    world.client.put("n", hidden("file", names.Role.STAGED), NEW)
    file = world.closed("file", NEW)
    change = world.write_back.queue.save(file)
    assert change is not None
    change.begun = True
    world.state.write(
        edit(
            change, stage=stage, tid=TID, staged_id="n", sha256=sha(NEW), size=3, base=Base.of(item),
            asides=[Aside("o", item.path, moved=True, size=3)],
        )
    )  # fmt: skip
    return file, change


def test_what_was_refused_is_tried_again(world: World) -> None:
    files = [refused(world, "dir/a"), refused(world, "b")]
    world.closed("dir/waiting", NEW)
    assert world.write_back.retry("dir") == ["dir/a"]
    assert [file.refused for file in files] == ["", "too large"]
    assert files[0].change is not None
    assert world.write_back.retry(None) == ["b"]
    world.write_back.commit(files[1])
    assert world.client.contents[files[1].item_id] == NEW


def test_who_gives_up_a_file_holds_nobody_up_who_has_its_lock(world: World) -> None:
    """tables.py, lock order: a File's lock, then the state's."""
    file = refused(world)
    with file.lock:
        giving_up = threading.Thread(target=world.write_back.discard, args=("file",))
        giving_up.start()
        giving_up.join(0.2)
        assert giving_up.is_alive()
        assert world.state.lock.acquire(timeout=5)
        world.state.lock.release()
    giving_up.join()
    assert file.generation == 0


@pytest.mark.parametrize("path", ["file", ""])
def test_what_is_given_up_is_kept_and_the_servers_version_shown_again(world: World, path: str) -> None:
    """vfs/semantics.md 4: `jobfs discard`; nothing is forgotten."""
    file = refused(world)
    ((given_up, kept),) = world.write_back.discard(path)
    assert (given_up, Path(kept).read_bytes()) == ("file", NEW)
    assert (world.state.at("file"), world.state.file(file.ino), world.state.changes) == (None, None, {})
    assert len(world.state.journal.load(File)) == 0
    assert world.namespace.told == ["touch file"]
    assert world.client.done == []


def test_what_was_begun_is_taken_back(world: World) -> None:
    file, change = begun(world)
    with pytest.raises(FsError, match="just being sent") as caught:
        world.write_back.discard("file")
    assert caught.value.errno == errno.EBUSY
    assert file.unsaved, "it has set something aside"
    world.client.put("o", "file", OLD)
    change.asides.clear()
    world.write_back.discard("file")
    world.clean_up()
    assert world.client.paths == {"o": "file"}
    assert (world.state.left().files, world.state.changes, file.generation) == ([], {}, 0)
