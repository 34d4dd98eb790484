"""What the content cache evicts goes while no lock is held: others would wait for the disk to remove thousands of files."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace

from jobfs.content.disk import DiskCache
from jobfs.emulator import Server
from jobfs.state.localbytes import LocalBytes, LocalGeneration

#: Bytes of each file that is read; as many as these fill the cache.
SIZE, COUNT = 16 << 10, 64


def once(real: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but the disk is full at the first call."""
    full = [OSError(errno.ENOSPC, "full")]

    def call(*arguments: Any, **more: Any) -> Any:
        if full:
            raise full.pop()
        return real(*arguments, **more)

    return call


# What is done to a file: before the yield the disk has room, after it the first call finds it full.


def save_file(work: Workspace) -> Iterator[None]:
    yield
    work.write("mine", bytes(50 * SIZE), fsync=True)
    eventually(lambda: work.write_back.content.used_bytes() <= COUNT * SIZE)  # not before the fsync returns


def write_file(work: Workspace) -> Iterator[None]:
    yield
    work.write("mine", bytes(10 * SIZE))


def change_closed_file(work: Workspace) -> Iterator[None]:
    work.write("mine", bytes(50 * SIZE))
    yield
    with work.opening("mine") as fh:
        work.vfs.write(fh, b"x", 0)


def cut(work: Workspace) -> Iterator[None]:
    work.write("mine", bytes(50 * SIZE))
    yield
    with work.opening("mine") as fh:
        work.vfs.ftruncate(fh, 10)


def send_growing_file(work: Workspace) -> Iterator[None]:
    """Send the closed bytes of a file to which a program has appended more: the save copies them."""
    with work.closing(work.opened("mine")) as fh:
        work.vfs.write(fh, closed := bytes(50 * SIZE), 0)
        work.vfs.flush(fh)
        work.vfs.write(fh, b"not closed", len(closed))
        yield
        (file,) = work.state.backlog().files
        assert file.change is not None
        work.write_back.queue.run_until_finished(file.change)
        assert visible(work.server)["mine"] == closed


@pytest.mark.parametrize(("change", "full", "most"), [
    (save_file, None, 14), (write_file, (LocalGeneration, "write"), 54), (change_closed_file, (LocalBytes, "create"), 14),
    (cut, (LocalBytes, "create"), 14), (send_growing_file, (LocalBytes, "create"), 14),
])  # fmt: skip
def test_files_are_evicted_without_holding_a_lock(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, change: Callable[[Workspace], Iterator[None]],
    full: tuple[type, str] | None, most: int,
) -> None:  # fmt: skip
    """vfs/semantics.md 3.11, 4.41: the cache gives way to what is saved or written here, by as much as that needs."""
    server.store.seed({f"{number}": bytes(SIZE) for number in range(COUNT)}, age=60)
    work = start(cache_size=COUNT * SIZE, write_back_delay=30)
    for number in range(COUNT):
        work.read(f"{number}")
    state, evict = work.state, DiskCache._remove
    evicted: list[str] = []

    def watched(disk: DiskCache, names: Iterable[str]) -> None:
        names = [*names]
        evicted.extend(names)
        if names:
            assert not state.lock._is_owned()  # type: ignore[attr-defined]
            assert not [file.path for file in state.index.all_files() if file.lock._is_owned()]  # type: ignore[attr-defined]
        evict(disk, names)

    monkeypatch.setattr(DiskCache, "_remove", watched)
    steps = change(work)
    next(steps)
    if full is not None:
        monkeypatch.setattr(*full, once(getattr(*full)))
    next(steps, None)
    assert evicted
    assert work.write_back.content.used_bytes() <= COUNT * SIZE
    assert COUNT - len(evicted) <= most
