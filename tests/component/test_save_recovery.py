"""The next mount continues what the last one has begun, beside what its own programs do (save/protocol.md, Recovery)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.serverside import contents, visible

from jobfs.emulator import Server

OLD, UNSENT, NEWER, DRAFT = (
    b"the old content",
    b"never sent",
    b"saved after the restart",
    b"what is renamed over it",
)


@pytest.mark.parametrize(("then", "kept"), [("nothing", [DRAFT]), ("saves", [DRAFT, NEWER]), ("unlinks", [])])
def test_a_resumed_rename_over_an_unsent_file_drops_only_the_unsent_bytes(
    server: Server, mortal: Callable[..., Mortal], then: str, kept: list[bytes]
) -> None:
    """vfs/semantics.md 4.27: bytes acknowledged at a name are kept, though a rename that was killed takes the name only now."""
    server.store.seed({"file": OLD, "draft": DRAFT}, age=60)
    first = mortal(At("before update", 2), write_back_delay=30.0)
    assert first.read("file") == OLD
    first.write("file", UNSENT)
    first.work(lambda: first.vfs.rename("draft", "file"))
    first.end()
    server.faults.set_rate("unavailable", 1.0)
    work = mortal()
    assert work.read("file") == UNSENT
    if then == "saves":
        work.write("file", NEWER)
    server.faults.clear()
    if then == "unlinks":
        work.vfs.unlink("file")
    work.settle()
    assert contents(server) == sorted(kept)
    assert visible(server).get("file") == {"nothing": DRAFT, "saves": NEWER}.get(then)
    work.state.store.sync()
    assert [*work.state.bytes.directory.iterdir()] == []
