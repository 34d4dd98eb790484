"""What programs read through the page cache of the kernel after the job, or this mount, has changed a file."""

from __future__ import annotations

import os

from tests.support.files import save_file
from tests.support.mounts import MountedJob
from tests.support.waiting import eventually

from jobfs.emulator import Server


def test_bytes_the_job_writes_right_after_a_save_are_read_whole(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 1, TTL: not cut to the size of our own bytes, which the kernel has asked for."""
    server.store.seed({"dir/file.txt": "x" * 100}, age=60)
    old, new = mounted.path / "dir/file.txt", mounted.path / "folder/file.txt"
    for number in range(5):
        with old.open("r+b", buffering=0) as file:
            file.write(b"the user's %d" % number)
            file.truncate()
            os.fsync(file.fileno())
            os.fstat(file.fileno())
        old.parent.rename(new.parent)
        old, new = new, old
        grown = b"what the job wrote, and that is longer: %d" % number
        server.store.write(str(old.relative_to(mounted.path)), grown)
        read = set[bytes]()
        eventually(lambda read=read, grown=grown, path=old: read.add(path.read_bytes()) or grown in read)  # type: ignore[misc]
        assert read <= {b"the user's %d" % number, grown}


def test_a_reopened_file_has_its_current_content(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 3: open revalidates; own changes are visible at once, the job's within the TTL."""
    one, two, three = (bytes([letter]) * 9000 for letter in b"123")
    server.store.seed({"a": one, "b": two, "d/c": three}, age=60)
    a, b, c = (mounted.path / name for name in ("a", "b", "d/c"))

    def show(*contents: bytes) -> None:
        for _ in range(3):
            assert [path.read_bytes() for path in (a, b, c)] == [*contents]

    show(one, two, three)
    b.rename(mounted.path / "kept")
    a.rename(b)
    (mounted.path / "kept").rename(a)
    show(two, one, three)
    with a.open("rb") as still:
        assert still.read(10) == two[:10]
        save_file(a, three)
        show(three, one, three)
    server.store.write("d/c", one)
    eventually(lambda: c.read_bytes() == one)
    show(three, one, one)
    server.store.replace("b", two)
    eventually(lambda: b.read_bytes() == two)
    show(three, two, one)
    server.store.move("d/c", "b")
    eventually(lambda: not c.exists())
    for _ in range(3):
        assert b.read_bytes() == one
