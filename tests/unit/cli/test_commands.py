"""flush, info and umount, against a mount that answers; recover, and the parts of a mount."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from jobfs.cli import graph
from jobfs.errors import FsError
from jobfs.nodes import SendProgress
from jobfs.settings import load_settings
from jobfs.state import State
from jobfs.state import directory as directories

from .world import JOB, URL, Answering, Make, MountTable, Outcome, Run, left_behind, unsent


def test_flush_exits_with_0_if_all_is_sent_or_1_with_a_list(run: Run, answering: Make) -> None:
    one = answering("/mnt/a", flush={"left": []})
    assert run("flush", "/mnt/a") == Outcome(0, "", "")
    assert run("flush", "/mnt/a/dir/file", "--timeout", "3").code == 0
    assert run("flush").code == 0
    everything = ("flush", {"path": None, "timeout": None})
    assert one.calls == [everything, ("flush", {"path": "dir/file", "timeout": 3.0}), everything]
    answering("/mnt/b", flush={"left": [{"path": "a.txt", "reason": "x"}, {"path": "b.txt"}]})
    assert run("flush", "/mnt/b") == Outcome(1, "", "jobfs: 2 unsent: a.txt, b.txt\n")


def test_info_prints_the_known_fields_or_that_the_path_is_missing(run: Run, answering: Make) -> None:
    facts = {
        "id": "i" * 24, "owner": "expert", "lifecycle": "expertJob", "permission": "readWrite", "key": "k",
        "mime_type": "text/plain", "created_at": "C", "updated_at": "U", "state": "clean", "error": "",
        "size": 0,
    }  # fmt: skip
    one = answering("/mnt/a", info=facts)
    lines = dict(line.split(None, 1) for line in run("info", "/mnt/a/dir/file").out.splitlines())
    assert lines == {name: str(value) for name, value in facts.items() if name != "error"}
    assert list(lines)[:3] == ["id", "owner", "lifecycle"]
    assert json.loads(run("info", "/mnt/a/dir/file", "--json").out) == facts
    assert one.calls[0] == ("info", {"path": "dir/file"})
    answering("/mnt/b", info=Mock(side_effect=FsError(2)))
    assert run("info", "/mnt/b/none") == Outcome(1, "", "jobfs: /mnt/b/none: No such file or directory\n")


def test_set_sends_the_given_attributes(run: Run, answering: Make) -> None:
    """vfs/semantics.md 2.17."""
    one = answering("/mnt/a", set={})
    assert run("set", "/mnt/a/dir/f", "--permission", "readOnly").code == 0
    assert run("set", "/mnt/a/f", "--permission", "readWrite", "--lifecycle", "application").code == 0
    first, second = one.calls
    assert first == ("set", {"path": "dir/f", "permission": "readOnly", "lifecycle": None})
    assert second == ("set", {"path": "f", "permission": "readWrite", "lifecycle": "application"})


def test_discard_does_nothing_without_a_terminal_to_ask_on(run: Run, answering: Make) -> None:
    one = answering("/mnt/a", status={"unsent": [{"path": "f"}]}, discard={"given_up": []})
    assert run("discard", "/mnt/a/f") == Outcome(2, "", "jobfs: can't ask without a terminal: give --yes\n")
    assert [name for name, _ in one.calls] == ["status"]


def test_discard_gives_up_only_what_is_at_or_below_its_path(run: Run, answering: Make) -> None:
    """vfs/semantics.md 4.12."""
    status = {"unsent": [unsent(path="notes.md"), unsent(path="notes/a")]}
    one = answering("/mnt/a", status=status, discard={"given_up": []})
    assert run("discard", "/mnt/a/note") == Outcome(2, "", "jobfs: nothing is unsent at /mnt/a/note\n")
    assert run("discard", "/mnt/a/notes", "--yes").code == 0
    assert one.calls[-1] == ("discard", {"path": "notes"})
    assert [name for name, _ in one.calls].count("discard") == 1


@pytest.mark.parametrize(("left", "outcome"), [
    ([], Outcome(0, "", "")),
    ([{"path": "a.txt"}], Outcome(1, "", "jobfs: 1 unsent: kept for the next mount of this job: a.txt\n")),
])  # fmt: skip
def test_umount_waits_for_the_slot_and_names_unsent_files(
    run: Run, answering: Make, left: list[dict[str, str]], outcome: Outcome
) -> None:
    def unmounted(args: dict[str, Any], conversation: Any) -> dict[str, Any]:
        conversation.send_progress(SendProgress(1, 2))
        threading.Timer(0.1, one.slot.close).start()
        return {"left": left}

    one = answering("/mnt/a", umount=unmounted)
    assert run("umount", "/mnt/a") == outcome
    assert not directories.is_in_use(directories.inspect_directory(one.slot.path))


def test_umount_all_reports_what_any_of_the_mounts_has_left(run: Run, answering: Make) -> None:
    """vfs/semantics.md 6.4: whichever of them is unmounted first."""
    mounts: dict[str, Answering] = {}

    def unmounted(place: str, *_: object) -> dict[str, Any]:
        mounts[place].slot.close()
        return {"left": [unsent()] if place == "/mnt/b" else []}

    for place in ("/mnt/a", "/mnt/b", "/mnt/c"):
        mounts[place] = answering(place, umount=partial(unmounted, place))
    done = run("umount", "--all", "--yes")
    assert (done.code, done.out.count("to be unmounted"), done.err.count("a.txt")) == (1, 3, 1)


def test_umount_accepts_only_the_mount_point_itself(run: Run, answering: Make) -> None:
    one = answering("/mnt/a", umount={"left": []})
    done = run("umount", "/mnt/a/dir")
    assert (done.code, one.calls) == (2, [])


@pytest.mark.parametrize("kind", ["fuse.jobfs", "fuse.sshfs"])
def test_umount_removes_only_the_dead_mount_of_the_given_job(
    run: Run, table: MountTable, tmp_path: Path, kind: str
) -> None:
    table.add(tmp_path, "a;b", kind=kind, dead=True)
    done = run("umount", tmp_path)
    ours = kind == "fuse.jobfs"
    assert (done.code, table.unmounted) == ((1, [str(tmp_path)]) if ours else (2, [])), done.err
    assert (
        "it has left files that are not known here: mount the job again, or run jobfs recover 'a;b'\n"
        if ours
        else "no job is mounted"
    ) in done.err


@pytest.mark.parametrize(("words", "code", "said"), [
    (["flush"], 2, "no job is mounted"),
    (["flush", "/nowhere"], 2, "no job is mounted at /nowhere"),
    (["umount"], 2, "give the DIR to unmount, or --all"),
    (["umount", "--all", "/mnt/a"], 2, "give the DIR to unmount, or --all"),
    (["umount", "--all"], 0, "no job is mounted"),
])  # fmt: skip
def test_a_missing_mount_is_reported_in_one_sentence(
    run: Run, words: list[str], code: int, said: str
) -> None:
    assert run(*words) == Outcome(code, "", f"jobfs: {said}\n")


def test_a_removed_directory_is_reported_in_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 6.3: one clear sentence, and what to do."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run("status", "there") == Outcome(
        2, "", "jobfs: the directory you are in was removed: go to another one\n"
    )


@pytest.mark.usefixtures("own_logging", "job_check")
def test_recover_fails_if_what_an_ended_mount_has_left_cannot_be_read(
    run: Run, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSTACK_API_KEY", "sk-secret")
    place = left_behind(state, "/mnt/a")
    (place.path / "journal.db").write_bytes(b"no database" * 1000)
    done = run("recover", JOB, "--base-url", URL, "--allow-core-dumps")
    assert (done.code, done.out) == (1, "")
    assert str(place.path) in done.err


def test_each_part_of_a_mount_gets_its_settings(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    given = {
        "base_url": URL, "timeout": 7.0, "max_connections": 3, "create_encoding": "json", "cache_size": 2**21, "ttl": 4.0,
        "stale_if_error": 60.0,
    }  # fmt: skip
    client, content, namespace, vfs = (Mock() for _ in range(4))
    for name, part in {"Client": client, "ContentStore": content, "Namespace": namespace, "Vfs": vfs}.items():
        monkeypatch.setattr(graph, name, part)
    with closing(directories.acquire_state_directory(state, JOB, "/mnt/a", URL)) as place:
        parts = graph.build_mount(load_settings(given), JOB, place, lambda: "key", expected_items=57)
        (state_of_mount,) = (part for part in vfs.call_args.args if isinstance(part, State))
        state_of_mount.close()
    assert client.call_args.kwargs == {"timeout": 7.0, "max_connections": 3, "create_encoding": "json"}
    assert content.call_args.kwargs.items() >= {"limit": 2**21, "timeout": 7.0, "owner": place.path}.items()
    times = {"ttl": 4.0, "kernel_timeout": 0.8, "stale_if_error": 60.0}
    is_decided_here = state_of_mount.index.is_decided_here
    assert namespace.call_args.kwargs == {**times, "expected": 57, "is_decided_here": is_decided_here}
    assert (parts.vfs, parts.abort_requests) == (vfs.return_value, client.return_value.abort_requests)
