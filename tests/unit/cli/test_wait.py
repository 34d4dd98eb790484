"""`jobfs wait`, against mounts that answer."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from jobfs.errors import FsError

from .world import Make, Outcome, Run, a_status


def ended(status: str) -> dict[str, Any]:
    return {"job": {**a_status()["job"], "status": status}, "mounted": True}


@pytest.mark.parametrize(("answer", "code", "line"), [
    (ended("completed"), 0, "the job has ended: completed"),
    *((ended(status), 1, f"the job has ended: {status}") for status in ("failed", "canceled", "expired", "exceededMaxSteps")),
    (ended("requestInteractiveToolResult"), 3, "the job asks for something: requestInteractiveToolResult"),
    ({"job": None, "mounted": True}, 124, "the job has not ended within 7.5 s"),
])  # fmt: skip
def test_one_line_and_the_exit_code_say_how_the_job_ended(
    run: Run, answering: Make, answer: dict[str, Any], code: int, line: str
) -> None:
    """vfs/semantics.md 7.10."""
    one = answering("/mnt/a", wait=answer)
    assert run("wait", "/mnt/a/dir", "--timeout", "7.5") == Outcome(code, "", f"jobfs: /mnt/a: {line}\n")
    assert one.calls == [("wait", {"timeout": 7.5})]


def refused(args: object, conversation: object) -> None:
    raise FsError(5, "of another version")


def disconnected(args: object, conversation: Any) -> None:
    conversation._connection.shutdown(2)


@pytest.mark.parametrize(("answer", "line"), [
    ({"job": None, "mounted": False}, "/mnt/a is unmounted"),
    (refused, "/mnt/a: of another version"),
    (disconnected, "/mnt/a: the mount ended before it answered"),
])  # fmt: skip
def test_a_mount_that_is_gone_is_exit_code_2(run: Run, answering: Make, answer: Any, line: str) -> None:
    """vfs/semantics.md 7.10: never 1, which says that the job has failed."""
    answering("/mnt/a", wait=answer)
    assert run("wait", "/mnt/a") == Outcome(2, "", f"jobfs: {line}\n")


def test_a_hung_mount_is_exit_code_2_soon_after_the_timeout(
    run: Run, answering: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 7.10."""
    monkeypatch.setattr("jobfs.cli.wait._GRACE", 0.1)
    over = threading.Event()
    answering("/mnt/a", wait=lambda args, conversation: over.wait(20))
    done = run("wait", "/mnt/a", "--timeout", "0.1")
    over.set()
    assert done == Outcome(2, "", "jobfs: /mnt/a: the mount does not answer: timed out\n")


def test_a_mount_has_time_to_answer_after_the_timeout(run: Run, answering: Make) -> None:
    """vfs/semantics.md 7.10: 124, not 2."""
    still: dict[str, Any] = {"job": None, "mounted": True}
    answering("/mnt/a", wait=lambda args, conversation: threading.Event().wait(0.3) or still)
    assert run("wait", "/mnt/a", "--timeout", "0.1").code == 124


def test_an_endless_timeout_is_none(run: Run, answering: Make) -> None:
    answering("/mnt/a", wait=ended("completed"))
    assert run("wait", "/mnt/a", "--timeout", "inf").code == 0
