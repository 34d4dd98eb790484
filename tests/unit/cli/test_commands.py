"""flush, info and umount, against a mount that answers."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobfs.cli import running
from jobfs.cli import umount as umounting
from jobfs.errors import FsError
from jobfs.mountpoint import MountInfo
from jobfs.nodes import Sent
from jobfs.state import directory as slot
from jobfs.state.left import Left

from .conftest import Answering, Outcome

Run = Callable[..., Outcome]
Make = Callable[..., Answering]


def test_flush_is_0_when_the_server_has_everything(run: Run, answering: Make) -> None:
    one = answering("/mnt/a", flush={"left": []})
    assert run("flush", "/mnt/a") == Outcome(0, "", "")
    assert run("flush", "/mnt/a/dir/file", "--timeout", "3").code == 0
    assert run("flush").code == 0
    assert one.calls == [
        ("flush", {"path": None, "timeout": None}),
        ("flush", {"path": "dir/file", "timeout": 3.0}),
        ("flush", {"path": None, "timeout": None}),
    ]


def test_flush_is_1_and_lists_what_is_left(run: Run, answering: Make) -> None:
    answering("/mnt/a", flush={"left": [{"path": "a.txt", "reason": "x"}, "b.txt"]})
    assert run("flush", "/mnt/a") == Outcome(1, "", "jobfs: not sent yet: a.txt, b.txt\n")


def test_flush_without_a_mount_is_bad_input(run: Run, tmp_path: Path) -> None:
    assert run("flush").code == 2
    assert run("flush", tmp_path).code == 2


def test_info_prints_what_is_known(run: Run, answering: Make) -> None:
    """semantics 2: `jobfs info PATH`."""
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


def test_info_of_what_is_not_there_says_so(run: Run, answering: Make) -> None:
    def missing(args: dict[str, Any], conversation: Any) -> None:
        raise FsError(2)

    answering("/mnt/a", info=missing)
    assert run("info", "/mnt/a/none") == Outcome(1, "", "jobfs: /mnt/a/none: No such file or directory\n")


def test_umount_waits_until_the_slot_is_free(run: Run, answering: Make) -> None:
    one = answering("/mnt/a")

    def unmounted(args: dict[str, Any], conversation: Any) -> dict[str, Any]:
        conversation.progress(Sent(1, 2))
        threading.Timer(0.1, one.slot.close).start()
        return {"left": [], "note": ""}

    one._server._handlers = {"umount": unmounted}
    assert run("umount", "/mnt/a") == Outcome(0, "", "")
    assert one.slot._lock == -1


def test_umount_is_1_and_lists_what_is_kept(
    run: Run, answering: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 6: what is left stays in the journal for the next mount."""
    monkeypatch.setattr(umounting, "wait_until_free", lambda found, timeout: True)
    one = answering("/mnt/a", umount={"left": ["a.txt"]})
    done = run("umount", "/mnt/a", "--timeout", "5")
    assert (done.code, done.out) == (1, "")
    assert done.err == "jobfs: not sent yet, kept for the next mount of this job: a.txt\n"
    assert one.calls == [("umount", {"timeout": 5.0, "lazy": False})]


def test_umount_is_1_with_the_reason_where_the_mount_refuses(run: Run, answering: Make) -> None:
    """semantics 6: where programs have files open in it, `umount` names them and refuses."""

    def busy(args: dict[str, Any], conversation: Any) -> None:
        raise FsError(16, "/mnt/a is in use by vim (4: a.txt)")

    answering("/mnt/a", umount=busy)
    assert run("umount", "/mnt/a") == Outcome(1, "", "jobfs: /mnt/a is in use by vim (4: a.txt)\n")


def test_umount_is_1_while_what_was_detached_goes_on(run: Run, answering: Make) -> None:
    def lazily(args: dict[str, Any], conversation: Any) -> dict[str, Any]:
        conversation.say("/mnt/a is detached")
        return {"left": [{"path": "b.txt"}], "goes_on": 42, "open": "vim (4: a.txt)"}

    one = answering("/mnt/a", umount=lazily)
    done = run("umount", "--lazy", "--timeout", "1", "/mnt/a")
    first, second = done.err.splitlines()
    assert (done.code, first) == (1, "jobfs: /mnt/a is detached")
    for word in ("process 42", "vim (4: a.txt)", "not sent yet: b.txt"):
        assert word in second
    assert one.calls == [("umount", {"timeout": 1.0, "lazy": True})]


def test_umount_wants_the_mount_point_itself(run: Run, answering: Make) -> None:
    one = answering("/mnt/a", umount={"left": [], "note": ""})
    done = run("umount", "/mnt/a/dir")
    assert (done.code, one.calls) == (2, [])


@pytest.mark.parametrize(
    ("kind", "user", "stale", "code", "words"),
    [
        ("fuse.jobfs", 0, True, 0, "is gone: its dead mount was taken away"),
        ("fuse.jobfs", 0, False, 2, "--state-dir"),
        ("fuse.jobfs", 54321, False, 2, "was mounted by user 54321"),
        ("fuse.sshfs", 0, False, 2, "is not a job"),
        (None, None, False, 2, "nothing is mounted"),
    ],
)
def test_umount_of_what_no_process_of_this_user_serves(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str | None,
    user: int | None,
    stale: bool,
    code: int,
    words: str,
) -> None:
    unmounted: list[str] = []
    there = MountInfo("1", "0:1", str(tmp_path), kind, user) if kind else None
    monkeypatch.setattr(umounting, "mount_at", lambda path: there)
    for module in (umounting, running):
        monkeypatch.setattr(module, "is_dead", lambda path: stale)
    monkeypatch.setattr(umounting, "clear", unmounted.append)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    done = run("umount", tmp_path)
    assert done.code == code
    assert words in done.err
    assert unmounted == ([str(tmp_path)] if code == 0 else [])


def test_umount_wants_a_directory_or_all(run: Run) -> None:
    for words in ([], ["--all", "/mnt/a"]):
        assert run("umount", *words) == Outcome(2, "", "jobfs: give the DIR to unmount, or --all\n")


def test_umount_all_goes_on_where_one_refuses(
    run: Run, answering: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 6: `umount` names what is open and refuses; the other mounts end all the same."""

    def busy(args: dict[str, Any], conversation: Any) -> None:
        raise FsError(16, "/mnt/a is in use by vim (4: a.txt)")

    cleared: list[str] = []
    monkeypatch.setattr(umounting, "wait_until_free", lambda found, timeout: True)
    dead = slot.look(tmp_path / "c")
    monkeypatch.setattr(umounting, "dead_mounts", lambda state_dir: {"/mnt/c": dead})
    monkeypatch.setattr(umounting, "left_in", lambda path: Left(files=2))
    monkeypatch.setattr(
        umounting, "mount_at", lambda path: MountInfo("1", "0:1", path, "fuse.jobfs", os.geteuid())
    )
    monkeypatch.setattr(umounting, "is_dead", lambda path: path == "/mnt/c")
    monkeypatch.setattr(umounting, "clear", cleared.append)
    answering("/mnt/a", umount=busy)
    other = answering("/mnt/b", umount={"left": []})
    done = run("umount", "--all", "--timeout", "3")
    assert (done.code, cleared) == (1, ["/mnt/c"])
    assert other.calls == [("umount", {"timeout": 3.0, "lazy": False})]
    first, second = done.err.splitlines()
    assert first == "jobfs: /mnt/a is in use by vim (4: a.txt)"
    assert second.startswith("jobfs: the process that served /mnt/c is gone")
    assert "2 changes of it not on the server yet" in second


def test_umount_all_without_a_mount_is_no_failure(run: Run) -> None:
    assert run("umount", "--all") == Outcome(0, "", "jobfs: no job is mounted\n")


@pytest.mark.parametrize("command", ["umount", "flush"])
def test_ctrl_c_says_what_becomes_of_what_is_unsent(
    run: Run, answering: Make, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """semantics 6: what is left stays in the journal."""

    def interrupt(*args: Any, **words: Any) -> None:
        raise KeyboardInterrupt

    answering("/mnt/a")
    monkeypatch.setattr("jobfs.control.call", interrupt)
    done = run(command, "/mnt/a")
    assert (done.code, done.out) == (130, "")
    assert done.err.startswith("jobfs: interrupted: ")
    assert "journal" in done.err
