"""Contents fetched ahead of a program that reads one file after another: requests and connections on the server."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace

from jobfs.api.deadline import bind_deadline
from jobfs.emulator import Server

TREE = {f"d{number // 20:02}/f{number % 20:02}.txt": f"file {number}\n" for number in range(120)}


def read_tree(work: Workspace, directory: str = "") -> dict[str, bytes]:
    """Reads everything as `grep -r` does: entry by entry, as readdir gives them."""
    found: dict[str, bytes] = {}
    for name, attr in work.vfs.listdir(directory):
        path = f"{directory}/{name}" if directory else name
        if attr.mode & 0o040000:
            found |= read_tree(work, path)
        else:
            found[path] = work.read(path)
    return found


def most_at_once(server: Server) -> int:
    """How many downloads were under way at the same moment."""
    entries = [(e.time, e.time + (e.ms or 0) / 1000) for e in server.log.entries("download")]
    return max(sum(1 for begin, end in entries if begin <= moment < end) for moment, _ in entries)


def downloaded(server: Server) -> list[str]:
    """The paths of all downloads, once none is under way any more."""
    eventually(lambda: all(entry.ms is not None for entry in server.log.entries("download")))
    return [entry.target for entry in server.log.entries("download")]


def test_a_walk_uses_every_connection_and_fetches_each_file_once(server: Server, start: Start) -> None:
    """vfs/semantics.md 3.7: the next siblings' contents are fetched ahead in parallel."""
    server.store.seed(TREE, age=60)
    server.set(latency=200)
    work = start(ttl=60)
    assert read_tree(work) == {path: text.encode() for path, text in TREE.items()}
    assert sorted(downloaded(server)) == sorted(TREE)
    assert most_at_once(server) >= work.settings.max_connections - 4
    requests = server.log.count()
    assert requests <= len(TREE) + server.log.count("list") + 1
    read_tree(work)
    assert server.log.count() == requests, "all of it is here now"


def test_a_listing_alone_fetches_no_contents(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 3.9: never from inside readdir."""
    server.store.seed(TREE, age=60)
    for directory in ("", "d00", "d01", "d02"):
        work.names(directory)
    assert not downloaded(server)


def test_a_reader_is_served_during_a_large_prefetch(server: Server, start: Start) -> None:
    """vfs/semantics.md 3: fetching ahead never delays a foreground read."""
    server.store.seed({**TREE, "elsewhere/a": "aa", "elsewhere/sub/b": "bb"}, age=60)
    work = start(ttl=60)
    order = [f"d00/{name}" for name, _ in work.vfs.listdir("d00")]
    work.read(order[0])
    server.faults.fail_next("hang", on="download", path="d00/*", times=100)
    ahead = work.settings.max_connections - 2
    with ThreadPoolExecutor(1) as threads:
        reader = threads.submit(bind_deadline(errno_from), work.vfs.open, order[1], os.O_RDONLY)
        eventually(lambda: len(server.log.entries("download")) == 1 + 1 + ahead)
        assert work.read("elsewhere/sub/b") == b"bb"
        assert work.read("elsewhere/a") == b"aa"
        assert not reader.done(), "all others were still under way"
        work.stop()
        assert reader.result()
