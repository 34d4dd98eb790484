"""`jobfs status`, against a mount that answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from jobfs.names import Role, hidden_path
from jobfs.state import directory as directories

from .world import JOB, RECOVERY, URL, Make, MountTable, Outcome, Run, a_status, left_behind, unsent

StatusOf = Callable[..., Outcome]
JOB_TOLD, SERVER_TOLD = a_status()["job"], a_status()["server"]
CONFLICT = {
    "path": "a.conflict-1", "origin": "a", "reason": "a is gone; the job's: a.conflict-1", "diff": None, "merge": None,
}  # fmt: skip
HIDDEN = hidden_path("dir/notes.md", "f" * 12, "0" * 16, Role.ASIDE)
UNCLEANED = {"path": "a", "age": 7.0, "attempts": 2, "reason": "answered 500", "state": "failed"}
SLOT = {"path": "/state/x", "directory": "/mnt/old", "left": 3}


@pytest.fixture
def status_of(run: Run, answering: Make) -> Callable[..., Outcome]:
    """Runs `jobfs status` for a mount that is well, but for what is given."""

    def status_of(**changed: Any) -> Outcome:
        answering("/mnt/a", status=a_status(**changed))
        return run("status", "/mnt/a")

    return status_of


def test_a_healthy_mount_is_a_few_lines_and_exit_code_0(status_of: StatusOf) -> None:
    done = status_of(taken_up=["a line"])
    assert (done.code, done.err) == (0, "")
    assert [line.split(maxsplit=1) for line in done.out.splitlines() if line.strip()] == [
        ["mount", "/mnt/a (process 42)"], ["job", f"{JOB} processing, step 3 of 12, claude-opus-4-5, 12,345 tokens"],
        ["server", f"{URL} answers, 12 ms"], ["items", "57"], ["listing", "1 s old, valid for 3 s more"],
        ["cache", "1.2MiB"], ["taken", "up  1 save left by an earlier mount"], ["unsent", "0"],
        ["log", "/state/a/jobfs.log"],
    ]  # fmt: skip


def test_unknown_fields_of_a_status_are_omitted(status_of: StatusOf) -> None:
    job, server = dict.fromkeys(JOB_TOLD), {**SERVER_TOLD, "latency": None}
    done = status_of(job=job, server=server, items=None, snapshot_age=None)
    assert done.code == 0
    for words in (f"{JOB} (not known yet)", f"{URL} answers\n", "not read yet"):
        assert words in done.out
    assert "items" not in done.out


@pytest.mark.parametrize(("changed", "words"), [
    ({"job": {**JOB_TOLD, "status": "completed", "ended": True}}, "completed, has ended, step 3"),
    ({"job": {**JOB_TOLD, "status": "completed", "ended": True, "age": 300.0}}, " tokens, as of 5 min ago\n"),
    ({"read_only": True}, "(process 42, read-only)"),
    ({"watching": {"programs": 2, "told": 3, "requests": 11}},
     "watched   by 2 programs: the workspace is listed every 4 s (11 requests so far)\n"),
    ({"log": "journal"}, "journalctl _PID=42"),
    ({"cleaning": [UNCLEANED]}, "uncleaned 1 save: what they replaced is still hidden there; tried again\n"),
    ({"cleaning": [{**UNCLEANED, "path": "b", "reason": "", "state": "waiting"}, UNCLEANED]},
     "\ncleaning (2): being cleaned up on the server\n  a: 7 s old, answered 500, failed\n  b: 7 s old\n"),
    ({"snapshot_age": 40.0}, "listing   40 s old, read again when needed\n"),
    ({"foreign_hidden": [{"path": HIDDEN, "reason": "left"}]}, "\n  dir/notes.md: left\n"),
    # 4.61: the commands that compare and merge, as long as what both began with is on this machine.
    ({"conflicts": [CONFLICT]}, "\nconflicts (1)\n  a is gone; the job's: a.conflict-1\n\n"),
    ({"conflicts": [{**CONFLICT, "diff": "diff -u a b"}]}, ": a.conflict-1\n    diff -u a b\n\n"),
    ({"conflicts": [{**CONFLICT, "diff": "diff -u a b", "merge": "jobfs merge a"}]}, "\n    diff -u a b\n    jobfs merge a\n\n"),
    ({"server": {**SERVER_TOLD, "stale": True}}, "12 ms; the last known state is shown"),
])  # fmt: skip
def test_each_fact_of_a_status_has_a_line(status_of: StatusOf, changed: dict[str, Any], words: str) -> None:
    """vfs/semantics.md 4.61, 6.6, 6.22: what the server said of the job long ago is not said of the present."""
    out = status_of(**changed).out
    assert (words in out, out.count("a second version was kept")) == (True, "conflicts" in changed), out


def test_unsent_files_are_shown_with_their_bytes_and_their_age(status_of: StatusOf) -> None:
    files = [unsent(path=f"f{number}", size=1024, age=200.0 - number) for number in range(25)]
    files[0]["sent"] = 512
    done = status_of(unsent=files)
    assert done.code == 0
    assert "unsent    25 files, 25KiB (512B sent), the oldest 3 min old" in done.out
    assert "  f0: 1KiB, 512B sent, 3 min old\n" in done.out
    assert "  and 5 more: --json has them all\n" in done.out


def test_failed_files_count_as_unsent_and_come_first(status_of: StatusOf) -> None:
    """vfs/semantics.md 4, Nothing is forgotten: one number, for whatever reason the server does not have a file."""
    failed = unsent(path="big", size=9, state="failed", reason="Too large", attempts=0)
    done = status_of(unsent=[*[unsent()] * 20, failed], failed=[failed])
    assert (done.code, done.out.count("big")) == (1, 1)
    assert "unsent    21 files, 69B, the oldest 1 s old; 1 of them failed\n" in done.out
    assert "unsent (21): not on the server\n  big: 9B, 1 s old, Too large, failed\n  a.txt: " in done.out


def test_without_a_directory_every_mount_is_shown(run: Run, answering: Make) -> None:
    answering("/mnt/a", status=a_status())
    answering("/mnt/b", status=a_status(directory="/mnt/b"))
    done = run("status")
    assert (done.code, done.out.count("mount "), done.out.count("/mnt/b")) == (0, 2, 1)
    for words, there in ((), ["/mnt/a", "/mnt/b"]), (("/mnt/b",), ["/mnt/b"]):
        told = json.loads(run("status", "--json", *words).out)
        assert (list(told), [report["directory"] for report in told["mounts"]]) == (["mounts"], there)


@pytest.mark.parametrize(("changed", "words"), [
    ({"failed": [unsent(state="failed")]}, "1 failed: refused by the server: run jobfs retry /mnt/a, or jobfs discard FILE"),
    ({"conflicts": [CONFLICT]}, "1 conflict:"),
    ({"server": {**SERVER_TOLD, "key_refused": True}}, "the server refuses the API key"),
    ({"server": {**SERVER_TOLD, "answering": False, "last_error": "down"}}, "does not answer: down"),
    ({"cache": {"bytes": 0, "refused": "No space left"}}, "content cache (No space left"),
    ({"other_slots": [SLOT]}, f"/mnt/old has left unsent work in /state/x: run {RECOVERY}"),
])  # fmt: skip
def test_the_exit_code_is_1_when_a_person_must_act(
    status_of: StatusOf, changed: dict[str, Any], words: str
) -> None:
    (problem,) = a_status(**changed)["problems"]
    done = status_of(**changed)
    assert (done.code, f"! {problem}" in done.out, words in problem) == (1, True, True), done.out


def test_the_exit_code_is_2_when_nothing_is_mounted(run: Run, tmp_path: Path) -> None:
    for more, out in ((), ""), (("--json",), '{\n  "mounts": []\n}\n'), (("--watch",), ""):
        assert run("status", *more) == Outcome(2, out, "jobfs: no job is mounted\n")
    assert run("status", tmp_path).code == 2


def test_a_watch_into_a_pipe_writes_documents(
    run: Run, answering: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering("/mnt/a", status=a_status(conflicts=[CONFLICT]))
    sleep = Mock(side_effect=[None, KeyboardInterrupt])
    monkeypatch.setattr("jobfs.cli.status.time", Mock(sleep=sleep))
    done = run("status", "--watch", "--json", "/mnt/a")
    pids = [json.loads(line)["mounts"][0]["pid"] for line in done.out.splitlines()]
    assert (done.code, pids) == (1, [42, 42])


def test_an_unresponsive_mount_is_reported_and_hides_no_other(
    run: Run, answering: Make, table: MountTable, state: Path
) -> None:
    """vfs/semantics.md 6: a slot is in use before its mount answers, and while it is recovered."""
    answering("/mnt/b", status=a_status(directory="/mnt/b"), flush={"left": []}, retry={"paths": ["x"]})
    starting = directories.acquire_state_directory(state, JOB, "/mnt/a", "http://127.0.0.1:1")
    left_behind(state, table.add("/mnt/c", JOB, dead=True))
    try:
        for command, said in (("status", "/mnt/b"), ("flush", ""), ("retry", "sending again: x")):
            done = run(command)
            assert (done.code, said in done.out) == (2 if command == "status" else 1, True)
            assert "jobfs: /mnt/a: the mount does not answer" in done.err
    finally:
        starting.close()


@pytest.mark.parametrize("words", [("status",), ("flush",)])
def test_a_dead_mount_is_listed_with_the_running_ones(
    run: Run, answering: Make, table: MountTable, state: Path, words: tuple[str, ...]
) -> None:
    answering("/mnt/a", status=a_status(), flush={"left": []})
    assert run(*words).code == 0
    left_behind(state, "/mnt/c d")
    table.add("/mnt/c d", JOB, dead=True)
    done = run(*words)
    assert done.code == 1
    assert done.err.endswith("is gone: mount the job there again, or run jobfs umount '/mnt/c d'\n")


def test_a_mount_of_another_version_is_reported_with_the_remedy(run: Run, answering: Make) -> None:
    """vfs/semantics.md 6.16: the remedy can be pasted."""
    answering("/mnt/a b", status={"directory": "/mnt/a b", "unsent": []})
    done = run("status", "/mnt/a b")
    assert (done.code, done.out) == (2, "")
    assert "another version of jobfs: run jobfs umount '/mnt/a b', then" in done.err
