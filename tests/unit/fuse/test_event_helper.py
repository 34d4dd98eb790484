"""The calls of a mount's helper are made in the mount, and nowhere else: what they are made on here are real files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from jobfs.fuse.event_helper import make_call
from jobfs.fuse.events import HelperCall

#: What each call leaves of a directory with "empty/", "file" and "old" (see `found`).
MADE = [
    (HelperCall("create", "new"), "empty file new* old"), (HelperCall("mkdir", "new"), "empty file new* old"),
    (HelperCall("unlink", "file"), "empty old"), (HelperCall("rmdir", "empty"), "file old"),
    (HelperCall("rename", "old", "empty/new"), "empty* file"), (HelperCall("modify", "file"), "empty file* old"),
    (HelperCall("close", "file"), "empty file old"), (HelperCall("attributes", "file"), "empty file old"),
    (HelperCall("attributes", ""), "empty file old"),
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "old").touch()
    for name in ("empty", "file", "old"):
        (tmp_path / name).chmod(0o740)
        os.utime(tmp_path / name, ns=(1, 1))
    return tmp_path


def names_in(place: Path) -> str:
    """The names in a directory; a star follows one that has another time or mode than at first."""
    seen = {path.name: path.stat() for path in sorted(place.iterdir())}
    same = {name for name, at in seen.items() if (at.st_mtime_ns, stat.S_IMODE(at.st_mode)) == (1, 0o740)}
    return " ".join(name if name in same else f"{name}*" for name in seen)


@pytest.mark.parametrize(("call", "left"), MADE)
def test_a_helper_makes_its_calls_only_on_the_mount(place: Path, call: HelperCall, left: str) -> None:
    """fuse/events.py: on another device, which is what lies under a mount that is gone, nothing is made."""
    words, device = [call.path or ".", *filter(None, [call.new])], place.stat().st_dev
    assert make_call(str(place), device + 1, call.name, *words) == errno.ENOENT
    assert names_in(place) == "empty file old"
    assert make_call(str(place), device, call.name, *words) == 0
    assert names_in(place) == left
    assert make_call(str(place), device, "unlink", "none") == errno.ENOENT
    assert make_call(str(place / "none"), device, call.name, *words) == errno.ENOENT


@pytest.mark.parametrize("way", ["mounted further down", "a link"])
@pytest.mark.parametrize("call", ["create new", "mkdir new", "rmdir empty", "rename file new", *(
    f"{call} file" for call in ("modify", "close", "attributes", "unlink")
)])  # fmt: skip
def test_a_helper_makes_no_call_on_another_disk(tmp_path: Path, in_memory: Path, call: str, way: str) -> None:
    """vfs/semantics.md 7.7: the helper that produces the events of the job's changes alters no file."""
    assert in_memory.stat().st_dev != tmp_path.stat().st_dev
    (tmp_path / "link").symlink_to(in_memory)
    (in_memory / "empty").mkdir()
    (in_memory / "file").write_text("precious")
    before = {each.name: each.stat() for each in in_memory.iterdir()}
    directory, start = (tmp_path, "link") if way == "a link" else (Path("/"), str(in_memory)[1:])
    name, *paths = call.split()
    code = make_call(str(directory), directory.stat().st_dev, name, *(f"{start}/{path}" for path in paths))
    assert code in (errno.ENOENT, errno.ENOTDIR)
    assert {each.name: each.stat() for each in in_memory.iterdir()} == before
