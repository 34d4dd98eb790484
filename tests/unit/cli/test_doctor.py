"""`jobfs doctor`: a line for each check, a remedy for each failure."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from jobfs.cli.doctor import Checkup
from jobfs.errors import UsageError
from jobfs.state.records import Change, File, Verb

from .world import JOB, RECOVERY, JobCheck, Make, MountTable, Outcome, Run, left_behind


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, able: None, table: MountTable, job_check: JobCheck) -> None:
    monkeypatch.setenv("PERSTACK_API_KEY", "secret-key")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def doctor(run: Run, tmp_path: Path, state: Path) -> Run:
    """Runs the doctor on the usual state directory; no line of it is a traceback."""

    def doctor(*arguments: str | Path) -> Outcome:
        done = run("doctor", *arguments, "--state-dir", state, "--cache-dir", tmp_path / "cache")
        assert done.err == ""
        assert "unexpected" not in done.out
        return done

    return doctor


CHECKS = "{} checks of this machine, the key and the connection to the server passed (--verbose shows them)"
BROKEN = "a mount does not work: fix what FAILED"
NO_KEY = "FAILED  API key: there is no API key: set PERSTACK_API_KEY, or give --api-key-file FILE"


@pytest.mark.parametrize(("fault", "asked", "code", "lines"), [
    ("", (), 0, [f"ok      {CHECKS.format(7)}", "a mount works if the server knows the job: jobfs doctor JOB checks that"]),
    ("", (JOB,), 0,
     [f"ok      {CHECKS.format(8)}", "a mount works, as far as these checks show: --try tests the server, too"]),
    ("machine", (JOB,), 1,
     ["FAILED  cache directory: can't write to the cache directory CACHE: Not a directory; give another with --cache-dir",
      f"ok      {CHECKS.format(7)}", BROKEN]),
    ("server", (JOB,), 1, ["FAILED  job: mend it", f"ok      {CHECKS.format(7)}", BROKEN]),
    ("key", (JOB, "--try", "--yes"), 1, [NO_KEY, f"ok      {CHECKS.format(6)}", BROKEN]),
])  # fmt: skip
def test_doctor_reports_failures_with_remedies_and_the_rest_in_a_line(
    doctor: Run, monkeypatch: pytest.MonkeyPatch, job_check: JobCheck, tmp_path: Path, fault: str, asked: tuple[str, ...],
    code: int, lines: list[str],
) -> None:  # fmt: skip
    """vfs/semantics.md 6.13: checks the machine and the account, with a remedy for each failure."""
    cache = tmp_path / "cache"
    if fault == "machine":
        cache.touch()
    elif fault == "server":
        job_check.objection = UsageError("mend it")
    elif fault == "key":
        monkeypatch.delenv("PERSTACK_API_KEY")
    done = doctor(*asked)
    assert (done.code, done.out.replace(str(cache), "CACHE").splitlines()) == (code, lines)


def test_an_error_of_the_system_fails_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    checkup = Checkup(everything=False)
    assert not checkup.run_check("libfuse 2", Mock(side_effect=OSError("mend it")))
    assert capsys.readouterr().out == "FAILED  libfuse 2: mend it\n"
    checkup.print_finding("moves", "UNSURE", "no answer")
    assert (checkup.print_conclusion(""), capsys.readouterr().out.splitlines()[-1]) == (1, BROKEN)


def test_unsent_files_of_ended_mounts_are_only_a_warning(doctor: Run, state: Path) -> None:
    left_behind(state, "/mnt/idle")
    left_behind(
        state, "/mnt/full", File(1, path="a", generation=1, size=2_000), Change(2, Verb.REMOVE, "gone")
    )
    done = doctor()
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.startswith("WARN")] == [
        "WARN    mounts: the mount that ended at /mnt/full has left 2 unsent: kept for the next mount of this job: a, gone: "
        f"mount the job again, or run {RECOVERY}"
    ]


def test_doctor_tolerates_anything_in_the_state_directory(doctor: Run, state: Path) -> None:
    damaged = left_behind(state, "/mnt/a")
    (damaged.path / "journal.db").write_bytes(b"garbage" * 1000)
    (state / "a file").write_bytes(b"\xff")
    (state / "a directory" / ("0" * 12)).mkdir(parents=True)
    (state / "a directory" / ("0" * 12) / "mount.json").write_text('{"mount_id": "000000000000"}')
    (state / JOB / ("1" * 12)).mkdir()
    (state / JOB / ("1" * 12) / "journal.db").mkdir()
    (state / JOB / ("2" * 12)).write_text("no directory")
    done = doctor()
    assert done.code == 0
    told = f"has left files that can't be listed: the journal {(damaged.path / 'journal.db')} can't be used"
    assert f"/mnt/a {told}" in done.out
    assert done.out.count("can't be listed") == 2, done.out
    assert (damaged.path / "journal.db").read_bytes() == b"garbage" * 1000


def test_mounts_are_counted_and_dead_ones_reported_with_the_remedy(
    doctor: Run, answering: Make, table: MountTable, state: Path
) -> None:
    answering("/mnt/a")
    left_behind(state, "/mnt/dead")
    for point, kind in (("/mnt/dead", "fuse.jobfs"), ("/mnt/theirs", "fuse.jobfs"), ("/x", "fuse.sshfs")):
        table.add(point, kind=kind, dead=True)
    done = doctor("--verbose")
    assert done.code == 0
    for words in (
        "ok      mounts: 1 running",
        "WARN    mounts: the process that served /mnt/dead is gone: mount the job there again, or run jobfs umount /mnt/dead",
    ):
        assert words in done.out
    assert "theirs" not in done.out
    assert "process that served /x" not in done.out


def test_the_proxy_is_printed_without_its_password(doctor: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy.example.com:3128")
    done = doctor("--verbose")
    assert "through the proxy http://proxy.example.com:3128" in done.out
    assert "hunter2" not in done.out
    monkeypatch.setenv("SSL_CERT_FILE", "/own.pem")
    assert "TLS, certificates are checked against /own.pem" in doctor("--verbose").out
    monkeypatch.setenv("HTTPS_PROXY", "gopher://me:hunter2@proxy")
    done = doctor()
    told = "FAILED  connection: the proxy named by the environment can't be used: correct HTTPS_PROXY"
    assert told in done.out
    assert "hunter2" not in done.out
    done = doctor("--base-url", "http://127.0.0.1:1", "--verbose")
    for words in (
        "/dev/fuse: is well", "libfuse 2", "cache directory", "state directory", "API key: in PERSTACK_API_KEY",
        "no TLS, because the server is on this machine, without a proxy",
    ):  # fmt: skip
        assert words in done.out
    assert "secret-key" not in done.out
