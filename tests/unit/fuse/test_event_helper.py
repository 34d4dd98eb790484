"""The calls of a mount's helper are made in the mount, and nowhere else: what they are made on here are real files."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from jobfs.fuse.event_helper import make_call

_OTHER = Path("/dev/shm")


@pytest.mark.parametrize("way", ["mounted further down", "a link"])
@pytest.mark.parametrize(
    "call", ["create", "mkdir", "modify", "close", "attributes", "unlink", "rmdir", "rename"]
)
def test_the_helper_makes_no_call_on_another_file_system(tmp_path: Path, call: str, way: str) -> None:
    """vfs/semantics.md 7.7: the helper that produces the events of the job's changes alters no file."""
    assert _OTHER.stat().st_dev != tmp_path.stat().st_dev
    place = _OTHER / f"jobfs-test-{os.getpid()}"
    name = "new" if call in ("create", "mkdir") else "directory" if call == "rmdir" else "file"
    directory, start = (tmp_path, "link") if way == "a link" else (Path("/"), str(place)[1:])
    (tmp_path / "link").symlink_to(place)
    (place / "directory").mkdir(parents=True)
    (place / "file").write_text("precious")
    try:
        before = {each.name: each.stat() for each in place.iterdir()}
        paths = [f"{start}/{name}", *([f"{start}/new"] if call == "rename" else [])]
        assert make_call(str(directory), directory.stat().st_dev, call, *paths) in (
            errno.ENOENT,
            errno.ENOTDIR,
        )
        assert {each.name: each.stat() for each in place.iterdir()} == before
    finally:
        shutil.rmtree(place)
