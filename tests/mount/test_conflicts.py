"""The job and the user change the same file: both contents are kept, the user's under the name."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
from tests.support.mounts import MountedJob, mounting
from tests.support.serverside import contents, doubled, visible
from tests.support.waiting import eventually, eventually_equal

from jobfs.emulator import EmulatorConfig, Server, running

CREATES = ("reject", "overwrite", "duplicate")


@pytest.fixture(scope="module", params=CREATES)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MountedJob]:
    """One mount for each behaviour of create; the tests use directories of their own."""
    home = tmp_path_factory.mktemp("keep-both")
    (home / "server").mkdir()
    with running(EmulatorConfig(), home / "server") as server:
        server.set(create_existing=request.param)
        with mounting(server, home / "home") as mounted:
            yield mounted


@pytest.fixture
def place(shared: MountedJob, request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory for one test, on the server and in the mount."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:100]
    os.mkdir(shared.path / name)
    yield name
    shared.server.faults.clear()


def job_does(server: Server, action: str, path: str) -> None:
    """The job's part: what it does to the file at `path`, whatever is there at that moment."""
    if action == "delete":
        if server.store.exists(path):
            server.store.delete(path)
    elif action == "replace" and server.store.exists(path):
        server.store.replace(path, b"the job's bytes")
    else:
        server.store.write(path, b"the job's bytes")


def kept_both(mounted: MountedJob, place: str, action: str) -> None:
    """The user's bytes have the name, the job's are visible beside it, nothing else is left."""
    server = mounted.server

    def picture() -> dict[str, bytes | None]:
        return {p: c for p, c in visible(server).items() if p.startswith(place + "/")}

    mounted.settled()
    expected = [b"the user's bytes"] if action == "delete" else [b"the job's bytes", b"the user's bytes"]
    eventually_equal(lambda: sorted(c or b"" for c in picture().values()), expected)
    assert picture()[f"{place}/note.txt"] == b"the user's bytes"
    assert sorted(os.listdir(mounted.path / place)) == sorted(p.rpartition("/")[2] for p in picture())
    others = [p for p in picture() if not p.endswith("/note.txt")]
    for other in others:
        assert other.startswith(f"{place}/note.conflict-")
        assert other.endswith(".txt")
        assert (mounted.path / other).read_bytes() == b"the job's bytes"
    assert doubled(server) == []


@pytest.mark.parametrize("read_first", [True, False], ids=["read first", "truncated at once"])
@pytest.mark.parametrize("action", ["write", "replace", "delete", "create"])
def test_what_the_job_did_between_open_and_save_is_kept_beside_the_save(
    shared: MountedJob, place: str, action: str, read_first: bool
) -> None:
    """semantics 4.20, 4.22: keep both; the user's save wins the name; a deleted target is brought back."""
    server, path = shared.server, f"{place}/note.txt"
    if action != "create":
        server.store.seed({path: "as it was"})
        eventually(lambda: (shared.path / path).exists())
        with (shared.path / path).open("r+b" if read_first else "wb") as file:
            if read_first:
                assert file.read() == b"as it was"
            job_does(server, action, path)
            file.seek(0)
            file.write(b"the user's bytes")
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
            assert server.store.read(path) == b"the user's bytes"
    else:
        with (shared.path / path).open("wb") as file:
            job_does(server, action, path)
            file.write(b"the user's bytes")
            file.flush()
            os.fsync(file.fileno())
            assert server.store.read(path) == b"the user's bytes"
    kept_both(shared, place, action)


@pytest.mark.parametrize("request_kind", ["create", "update", "second update"])
@pytest.mark.parametrize("action", ["write", "replace", "delete", "create"])
def test_what_the_job_does_in_the_middle_of_a_save_is_kept_beside_it(
    shared: MountedJob, place: str, action: str, request_kind: str
) -> None:
    """semantics 4: keep both, whichever request of the save the job comes before."""
    server, path = shared.server, f"{place}/note.txt"
    if action != "create":
        server.store.seed({path: "as it was"})
        eventually(lambda: (shared.path / path).exists())
    operation = request_kind.rpartition(" ")[2]
    skip = 1 if request_kind == "second update" else 0
    # A save of a new file has one update, the promotion, or none at all.
    if action == "create" and request_kind == "second update":
        skip = 0
    server.log.clear()
    server.faults.next("slow", on=operation, delay=0.2, skip=skip)

    def job() -> None:
        while server.faults.rules() and not stopped.is_set():
            stopped.wait(0.002)
        job_does(server, action, path)

    stopped = threading.Event()
    thread = threading.Thread(target=job)
    thread.start()
    try:
        with (shared.path / path).open("r+b" if action != "create" else "xb") as file:
            if action != "create":
                assert file.read() == b"as it was"
                file.seek(0)
            file.write(b"the user's bytes")
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    finally:
        stopped.set()
        thread.join()
    shared.settled()
    visible_here = {p: c for p, c in visible(server).items() if p.startswith(place + "/")}
    if action == "delete":
        # Between set-aside and promotion there is nothing to delete; else the save brings it back.
        assert visible_here == {path: b"the user's bytes"}
        return
    assert sorted(c or b"" for c in visible_here.values()) in (
        [b"the job's bytes", b"the user's bytes"],
        # The job wrote after the save was over: it had seen the user's bytes, and its own are the newest.
        [b"the job's bytes"],
    )
    if len(visible_here) == 2:
        kept_both(shared, place, action)


def test_a_conflict_is_told_in_the_status(server: Server, mounted: MountedJob) -> None:
    """semantics 4.21: state `conflict` and a warning say so."""
    server.store.seed({"note.txt": "as it was"})
    assert os.listdir(mounted.path) == ["note.txt"]
    assert mounted.jobfs("status", mounted.path).returncode == 0
    with (mounted.path / "note.txt").open("r+b") as file:
        file.read()
        server.store.write("note.txt", "the job's")
        file.write(b"the user's")
    mounted.settled()
    eventually(lambda: len(contents(server)) == 2)
    eventually(lambda: mounted.status()["conflicts"])
    assert "note.conflict-" in str(mounted.status()["conflicts"])
    assert mounted.jobfs("status", mounted.path).returncode == 1


def test_two_mounts_that_save_the_same_file_keep_both(
    server: Server, mount: Callable[..., MountedJob]
) -> None:
    """semantics 6.12: several machines may mount one job at once: every rule holds between them too."""
    server.store.seed({"note.txt": "as it was"})
    one, two = mount(), mount()
    with (one.path / "note.txt").open("r+b") as first, (two.path / "note.txt").open("r+b") as second:
        assert first.read() == second.read() == b"as it was"
        for file, content in ((first, b"from the first"), (second, b"from the second")):
            file.seek(0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    one.settled()
    two.settled()
    assert server.store.read("note.txt") == b"from the second"
    eventually_equal(lambda: contents(server), [b"from the first", b"from the second"])
    eventually_equal(lambda: (one.path / "note.txt").read_bytes(), b"from the second")
