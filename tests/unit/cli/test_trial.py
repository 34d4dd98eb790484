"""`jobfs doctor JOB --try`: what it needs to be told, what it prints, and its exit code."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.cli import preflight
from jobfs.emulator import Server
from jobfs.errors import UsageError
from jobfs.trial import Trial

from .conftest import JOB, Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def server(started: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server, and a machine without FUSE, whose doctor has nothing else to say."""

    def missing() -> None:
        raise UsageError("/dev/fuse is missing")

    started.reset()
    monkeypatch.setattr(preflight, "check_device", missing)
    monkeypatch.setattr("jobfs.cli.doctor.Checkup.run", lambda checkup, job: 0)
    monkeypatch.setenv("PERSTACK_API_KEY", started.key)
    monkeypatch.setenv("JOBFS_BASE_URL", started.url)
    return started


@pytest.mark.parametrize(("arguments", "told"), [
    ((JOB, "--try"), "--yes"),
    (("--try", "--yes"), "the id of a job"),
    ((JOB, "--yes"), "belong to --try"),
    ((JOB, "--report", "report.json"), "belong to --try"),
    ((JOB, "--try", "--yes", "--report", "no-such-directory/report.json"), "no-such-directory/report.json"),
    (("not-a-job", "--try", "--yes"), "not a job id"),
])  # fmt: skip
def test_what_does_not_go_together_is_one_sentence_and_nothing_is_asked(
    run: Run, server: Server, arguments: tuple[str, ...], told: str
) -> None:
    done = run("doctor", *arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert done.err.count("\n") == 1
    assert server.log.entries() == []


def test_a_server_that_is_well_is_0_and_a_machine_without_fuse_is_no_reason(
    run: Run, server: Server, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    done = run("doctor", server.job, "--try", "--yes", "--report", report)
    assert (done.code, done.err) == (0, ""), done
    assert "everything that jobfs relies on is good" in done.out
    assert "there is no FUSE on this machine" in done.out
    assert server.key not in done.out + report.read_text()
    assert server.store.tree() == {}


def test_a_report_replaces_nothing_that_is_no_file(run: Run, server: Server, tmp_path: Path) -> None:
    """As /dev/stdout, which is a link, and /dev/null."""
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for report in (tmp_path / "link", tmp_path, Path("/dev/null")):
        done = run("doctor", server.job, "--try", "--yes", "--report", report)
        assert done.code == 2
        assert str(report) in done.err
    assert server.log.entries() == []


def test_whatever_happens_everything_is_taken_away(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trial: Trial, content: bytes) -> tuple[Path, int]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trial, "source", full)
    monkeypatch.setattr("jobfs.__main__.os.dup2", lambda *handles: None)
    assert run("doctor", server.job, "--try", "--yes").code == 70
    assert [entry.operation for entry in server.log.changes()] == ["create", "delete"]
    assert server.store.tree() == {}


def test_what_is_not_as_it_has_to_be_is_1(run: Run, server: Server) -> None:
    server.faults.rate("error", 1.0, on="download", status=404)
    done = run("doctor", server.job, "--try", "--yes")
    assert done.code == 1
    assert "NOT GOOD" in done.out
    assert "not as jobfs needs it" in done.out
    assert "everything that jobfs relies on is good" not in done.out


def test_a_server_that_refuses_the_key_is_1_and_says_so(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSTACK_API_KEY", "another-key")
    done = run("doctor", server.job, "--try", "--yes")
    assert done.code == 1
    assert "401" in done.out
    assert "the rest was not asked" in done.out
    assert server.log.changes() == []
