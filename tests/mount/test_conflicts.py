"""The job and the user change the same file: both contents are kept, the user's under the name."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.support.mounts import MountedJob, mounting
from tests.support.serverside import doubled, visible
from tests.support.waiting import eventually, eventually_equal

from jobfs.emulator import EmulatorConfig, Server, running

CREATES = ("reject", "duplicate")


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


@pytest.mark.parametrize(
    ("action", "read_first"),
    [("write", True), ("write", False), ("replace", True), ("delete", False), ("create", False)],
)
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
