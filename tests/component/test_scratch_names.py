"""A file gets a scratch name, as editors make backups: from then on it is on this machine only, and leaves the server."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Death, Mortal
from tests.support.files import errno_from
from tests.support.serverside import untimed, visible
from tests.support.waiting import eventually, eventually_equal
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.emulator import Server

OLD, NEW, OTHER, UNSENT, JOBS = b"old", b"new one", b"another", b"unsent", b"the job's"


@pytest.fixture(autouse=True)
def seeded(server: Server) -> None:
    server.store.seed({"file": OLD, "other": OTHER}, lifecycle="application", age=60)


@pytest.fixture
def scratch_delay() -> float:
    """Nothing leaves the server by itself."""
    return 60.0


def back_up(work: Workspace) -> None:
    assert work.read("file") == OLD
    number = work.vfs.getattr("file").ino
    work.vfs.rename("file", "file~")
    assert work.vfs.getattr("file~").ino == number


@pytest.fixture
def work(start: Start) -> Workspace:
    """A mount in which `file` has become `file~`, and what is saved is sent only when it has to be."""
    work = start(write_back_delay=30)
    back_up(work)
    return work


def tree(work: Workspace) -> dict[str, bytes]:
    return {name: work.read(name) for name in work.names()}


@pytest.mark.parametrize("scratch_delay", [0.2])
def test_the_scratch_file_leaves_the_server_and_stays_on_this_machine(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.35: `mv a a~` takes `a` from the job; `a~` is on this machine only, whatever is written to it."""
    work = start()
    back_up(work)
    eventually(lambda: visible(server) == {"other": OTHER})
    eventually(lambda: not work.state.changes)
    work.write("file~", NEW)
    for _ in range(2):
        assert tree(work) == {"file~": NEW, "other": OTHER}
        work.remount()
    assert visible(server) == {"other": OTHER}


def test_a_rename_fetches_missing_bytes_or_changes_nothing(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.34: where the server can't be asked, the rename fails; what it fetches is the present version."""
    work = start(timeout=1)
    work.write("file~", b"older")
    before = work.names()
    server.faults.set_rate("unavailable", 1.0)
    assert errno_from(work.vfs.rename, "file", "file~")
    server.faults.clear()
    eventually_equal(work.names, before)
    server.store.write("file", NEW)
    work.vfs.rename("file", "file~")
    server.faults.set_rate("unavailable", 1.0)
    assert work.read("file~") == NEW
    server.faults.clear()
    wait_until_settled(work)
    assert (tree(work), visible(server)) == ({"file~": NEW, "other": OTHER}, {"other": OTHER})


@pytest.mark.parametrize("end", ["is killed", "saves the file"])
def test_bytes_written_through_an_older_handle_go_into_the_scratch_file(
    server: Server, mortal: Callable[..., Mortal], end: str
) -> None:
    """vfs/semantics.md 4.3: close means that this machine will not lose it."""
    work = mortal(write_back_delay=30)
    with work.opening("file") as fh:
        assert work.vfs.read(fh, 10, 0) == OLD
        work.vfs.rename("file", "file~")
        work.vfs.write(fh, NEW, 0)
        assert work.vfs.read(fh, 10, 0) == NEW
    expected = {"file~": NEW, "other": OTHER}
    if end == "saves the file":
        work.write("file", b"saved", fsync=True)
        expected["file"] = b"saved"
    else:
        expected["file"] = OLD
    work.boundaries.dead = end == "is killed"
    work.end()
    again = mortal()
    again.settle()
    eventually(lambda: again.names() == sorted(expected), lambda: again.names())
    assert tree(again) == expected


def test_a_new_file_at_the_old_name_is_one_save_of_the_item(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.34: the removal is void if a new file of the real name comes, which is then one save of that item."""
    server.log.clear()
    work.write("file", NEW)
    wait_until_settled(work, {"file": NEW, "other": OTHER})
    assert server.store.item_at("file").lifecycle == "application"
    assert len([entry for entry in server.log.changes() if entry.method == "DELETE"]) == 1
    for _ in range(2):
        assert tree(work) == {"file": NEW, "file~": OLD, "other": OTHER}
        work.remount()


def renamed_scratch(work: Workspace) -> bytes:
    work.write("file.new~", NEW)
    work.vfs.rename("file.new~", "file")
    return NEW


def renamed_item(work: Workspace) -> bytes:
    work.vfs.rename("other", "file")
    return OTHER


@pytest.mark.parametrize("replace", [renamed_scratch, renamed_item])
def test_a_file_renamed_to_the_old_name_replaces_the_item(
    server: Server, work: Workspace, replace: Callable[[Workspace], bytes]
) -> None:
    """vfs/semantics.md 4.27: the version that was renamed away is what is replaced."""
    content = replace(work)
    assert (work.read("file"), work.read("file~")) == (content, OLD)
    wait_until_settled(work)
    assert visible(server)["file"] == content
    assert server.store.item_at("file").lifecycle == "application"
    assert OLD not in visible(server).values()
    assert work.vfs.status()["conflicts"] == []
    assert (work.read("file"), work.read("file~")) == (content, OLD)


def test_a_refused_rename_to_the_old_name_keeps_the_item(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.35: what was to take the name has voided the removal."""
    server.faults.set_rate("error", 1.0, on="update", status=403)
    assert errno_from(work.vfs.rename, "other", "file")
    server.faults.clear()
    assert tree(work) == {"file": OLD, "file~": OLD, "other": OTHER}
    wait_until_settled(work, {"file": OLD, "other": OTHER})


@pytest.mark.parametrize("how", ["unlinked", "unlinked while open", "renamed", "renamed to it"])
def test_removing_the_new_file_does_not_bring_back_the_old_item(
    server: Server, work: Workspace, how: str
) -> None:
    """vfs/semantics.md 4: a file that was unlinked never comes back, nor does the file that had its name before."""
    fh = work.vfs.create("file", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, NEW, 0)
    expected = {"file~": OLD, "other": OTHER}
    if how == "unlinked while open":
        work.vfs.unlink("file")
        work.vfs.release(fh)
    else:
        work.vfs.release(fh)
    if how == "unlinked":
        work.vfs.unlink("file")
    elif how.startswith("renamed"):
        name = "file~" if how == "renamed to it" else "moved"
        work.vfs.rename("file", name)
        expected[name] = NEW
    assert tree(work) == expected
    wait_until_settled(work)
    assert tree(work) == expected
    assert visible(server) == {name: content for name, content in expected.items() if name != "file~"}


@pytest.mark.parametrize("begun", [False, True])
def test_a_scratch_file_survives_a_kill_before_its_item_is_removed(
    server: Server, mortal: Callable[..., Mortal], begun: bool
) -> None:
    """vfs/semantics.md 4.19: before its removal was begun the item is shown under both names; later the next mount removes it."""
    work = mortal()
    back_up(work)
    if begun:
        server.faults.set_rate("unavailable", 1.0, on="delete")
        work.vfs.flush_all(None, 0.3, None)
    work.kill()
    server.faults.clear()
    again = mortal()
    again.settle()
    expected = {"file~": OLD, "other": OTHER, **({} if begun else {"file": OLD})}
    assert tree(again) == expected
    assert sorted(visible(server)) == [name for name in sorted(expected) if name != "file~"]


@pytest.mark.parametrize("unsent", [False, True])
@pytest.mark.parametrize("then", ["is killed", "unlinks", "closes"])
def test_a_scratch_file_survives_a_kill_before_a_new_file_is_closed(
    server: Server, mortal: Callable[..., Mortal], then: str, unsent: bool
) -> None:
    """vfs/semantics.md 4.35: then the old name has what the server has, even if the scratch name has newer bytes."""
    work = mortal(write_back_delay=30)
    back_up(work)
    if unsent:
        work.vfs.rename("file~", "file")
        work.write("file", UNSENT)
        work.vfs.rename("file", "file~")
    fh = work.vfs.create("file", 0o644, os.O_WRONLY, CALLER).fh
    work.vfs.write(fh, NEW, 0)
    expected = {"file~": UNSENT if unsent else OLD, "other": OTHER}
    if then == "unlinks":
        work.vfs.unlink("file")
    elif then == "closes":
        work.vfs.flush(fh)
        expected["file"] = NEW
    else:
        expected |= {"file": OLD, "file.recovered": NEW}
    work.kill()
    again = mortal()
    again.settle()
    assert untimed(tree(again)) == expected


def rewrite(work: Workspace, added: bytes, trees: list[dict[str, bytes]]) -> None:
    """Rename the file to its backup, and write it anew with more; a kill leaves the last of `trees`, or the one before."""
    content = work.read("file")
    trees.append({"file~": content})
    work.vfs.rename("file", "file~", CALLER.pid)
    trees.append({"file~": content, "file": content + added})
    with work.closing(work.vfs.create("file", 0o644, os.O_WRONLY, CALLER).fh) as fh:
        work.vfs.write(fh, content + added, 0)
        work.vfs.flush(fh)
        trees.append(trees[-1])


def rewrite_and_die(
    server: Server, home: Path, at: int, *, at_once: bool
) -> tuple[Boundaries, list[dict[str, bytes]]]:
    """Rewrite the file twice; the job appends to it at boundary `at`, where the mount is killed, or in the end."""

    def strike() -> None:
        server.store.append("file", JOBS)
        boundaries.dead = at_once

    boundaries, trees = Boundaries(at, strike), [{"file": OLD}]
    with Mortal(server, home, boundaries, write_back_delay=30) as work:
        assert work.read("file") == OLD
        boundaries.arm()
        with suppress(Death):
            rewrite(work, NEW, trees)
            rewrite(work, UNSENT, trees)
        boundaries.die()
    return boundaries, trees


@pytest.mark.parametrize("at_once", [True, False])
def test_unsent_rewrites_survive_a_kill_wherever_the_job_writes(
    server: Server, tmp_path: Path, at_once: bool
) -> None:
    """vfs/semantics.md 4.3, 4.35: what was closed is at its name or in the backup, over an older one; the job's bytes exist, too.

    Without a new file that was closed, the old name may have what the server has.
    """
    server.set(updated_resolution="seconds", move_touches="tree")
    for at in count(1):
        server.store.clear()
        server.store.seed({"file": OLD}, age=60)
        boundaries, trees = rewrite_and_die(server, tmp_path / f"{at}", at, at_once=at_once)
        with Mortal(server, tmp_path / f"{at}", Boundaries()) as again:
            again.settle()
            found = tree(again)
        where = f"{boundaries.last} of {boundaries.passed}: {found} of {trees}"
        whole = [all(found.get(name, b"").startswith(each[name]) for name in each) for each in trees[-2:]]
        assert any(whole), where
        if not boundaries.struck:
            break
        assert any(JOBS in content for content in found.values()), where
    assert boundaries.passed.count("written") > 6
