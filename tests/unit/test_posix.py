"""`scripts/posix`: what it reads of pjdfstest and fsx, compares, and says where it can't run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.recipes import ROOT

from _posix import expected, fsx, sources, stage, suite, tap
from _posix.__main__ import posix

_LIST = ROOT / "scripts/_posix/expected.txt"
_PAGE = (ROOT / "src/jobfs/vfs/semantics.md").read_text()


Report = tap.Report
#: Names as pjdfstest makes them up: one random word, and a path of almost 4,095 characters.
NAME, LONG = "pjdfstest_" + "0a" * 16, "/".join(["0123456789abcdef" * 8] * 20)


@pytest.mark.parametrize(("output", "report"), [
    ("1..2\nok 1\nok 2", Report(2)),
    ("1..2\nnot ok 1 - tried 'link a b', expected 0, got EPERM\nok 2", Report(2, {1: "tried 'link a b', expected 0, got EPERM"})),
    (f"1..1\nnot ok 1 - tried 'rename {NAME} {NAME}/{LONG}', got EPERM", Report(1, {1: "tried 'rename NAME NAME', got EPERM"})),
    ("1..2\nnot ok 1\nok 2 - done", Report(2, {1: ""})),
    ("ok 1\nnot ok 2\n1..2", Report(2, {2: ""})),
    ("1..3\nok\nnot ok\nok", Report(3, {2: ""})),
    ("1..1\nnot ok 1 # TODO not on Linux", Report(1)), ("1..1\nok 1 # TODO not on Linux", Report(1)),
    ("1..3\nok 1\na word from dd\nok 3", Report(3, {2: "no result"})),
    ("1..2\nok 1\nok 2\nnot ok 2 - again", Report(2, {2: "again"})),
    ("1..0", Report()),
    # Output that can't be compared with anything.
    ("not ok - could not find pjdfstest app", Report(problem="no plan in the output")),
    ("1..1\nok 1\nok 2", Report(1, problem="planned up to 1, and there is number 2")),
])  # fmt: skip
def test_a_report_has_the_plan_what_failed_and_what_is_wrong(output: str, report: tap.Report) -> None:
    assert tap.read(output.splitlines()) == report


def test_the_list_is_written_in_the_form_that_is_read() -> None:
    numbers = frozenset({3, 4, 5, 7, 9, 10})
    assert expected.ranges(numbers) == "3-5, 7, 9-10"
    text = f"# a remark\n\ntests/link/00.t: {expected.ranges(numbers)}  # no hard links (2.13)\n"
    assert expected.parse(text) == {"tests/link/00.t": expected.Expectation(numbers, "no hard links (2.13)")}


@pytest.mark.parametrize(("line", "message"), [
    ("tests/link/00.t: 3", "line 2 is not of the form 'tests/NAME.t: 1-3, 5  # why (2.13)'"),
    ("tests/link/00.t: 3-  # why", "line 2: '3-' is neither a number nor a range"),
    ("tests/link/00.t: 5-3  # why", "line 2: '5-3' is an empty range"),
    ("tests/open/00.t: 2  # why", "line 2 repeats tests/open/00.t"),
])  # fmt: skip
def test_a_bad_line_of_the_list_is_reported(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        expected.parse(f"tests/open/00.t: 1  # why (2.13)\n{line}\n")


def _outcome(failed: set[int], known: str) -> suite.Outcome:
    report = tap.Report(9, dict.fromkeys(failed, "tried 'open'"))
    listed = expected.parse(known and f"tests/open/00.t: {known}  # why (2.13)")
    return suite.Outcome("tests/open/00.t", report, expected.compare("tests/open/00.t", failed, listed))


@pytest.mark.parametrize(("failed", "known", "lines"), [
    (set(), "", ["tests/open/00.t: 9 assertions"]),
    ({1, 2}, "1-2", ["tests/open/00.t: 9 assertions, 2 fail as expected"]),
    ({1, 2}, "1", ["tests/open/00.t: 9 assertions, 1 fail as expected", "  NEW  2: tried 'open'",
                   "  the list would be  tests/open/00.t: 1-2"]),
    ({1}, "1-2", ["tests/open/00.t: 9 assertions, 1 fail as expected",
                  "  GONE 2: expected to fail, and does not", "  the list would be  tests/open/00.t: 1"]),
    (set(), "2", ["tests/open/00.t: 9 assertions", "  GONE 2: expected to fail, and does not",
                  "  the list would be  tests/open/00.t: (no line)"]),
])  # fmt: skip
def test_a_list_that_differs_from_the_failures_is_an_error(
    failed: set[int], known: str, lines: list[str]
) -> None:
    outcome = _outcome(failed, known)
    assert list(outcome.lines()) == lines
    assert outcome.is_wrong == (len(lines) > 1)


def test_the_numbers_of_the_summary_add_up() -> None:
    outcomes = [
        _outcome({1, 2}, "1"),
        _outcome({1}, "1-3"),
        suite.Outcome(
            "tests/x/00.t", tap.Report(problem="no plan"), expected.Difference(frozenset(), frozenset())
        ),
    ]
    assert suite.summary(outcomes, ["tests/y/00.t"], 61.4) == (
        "pjdfstest: 3 files, 18 assertions, 2 fail as expected, 1 new, 2 gone; 1 files not comparable; "
        "on the list but not in the suite: tests/y/00.t; 61 s"
    )


def test_each_expected_failure_cites_what_the_page_says() -> None:
    """A statement by its number, or a row of section 8 by its beginning."""
    table = re.split(r"^<!-- /?differences -->$", _PAGE, flags=re.MULTILINE)[1]
    known = set(re.findall(r"^- \*\*(\d+\.\d+)\*\*", _PAGE, re.MULTILINE))
    listed = expected.parse(_LIST.read_text())
    assert listed
    for name, expectation in listed.items():
        for reason in expectation.why.split("; "):
            cited = re.search(r"\((?:8: )?([^()]+)\)$", reason)
            assert cited, f"{name}: {reason}"
            assert cited[1] in known or f"\n| {cited[1]}" in table.replace("`", ""), f"{name}: {reason}"


# -- an imitation of pjdfstest


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory with the layout of pjdfstest: two files, and a program that does nothing."""
    source = tmp_path / "clone"
    for name, text in {
        "pjdfstest.c": "int main(void) { return HAVE_UTIMENSAT - 1; }\n#include <config.h>\n",
        "tests/misc.sh": "",
        "tests/open/00.t": "echo 1..1; echo ok 1; touch here\n",
        "tests/rename/09.t": "echo 1..2; echo ok 1; echo not ok 2\n",
    }.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    return source


def test_files_are_selected_by_the_prefix_of_their_names(clone: Path) -> None:
    everything = ["tests/open/00.t", "tests/rename/09.t"]
    assert suite.find(clone, []) == everything
    assert suite.find(clone, ["rename", "chmod"]) == everything[1:]
    assert suite.find(clone, ["rename/1"]) == []


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    (tmp_path / "mounted").mkdir()
    return tmp_path / "mounted"


def test_each_file_runs_in_its_own_directory(clone: Path, mounted: Path) -> None:
    run = suite.Suite(clone, mounted, os.environ).run(suite.find(clone, []), {}, 2)
    assert {outcome.name: dict(outcome.report.failed) for outcome in run} == {
        "tests/open/00.t": {},
        "tests/rename/09.t": {2: ""},
    }
    assert [str(path.relative_to(mounted)) for path in mounted.rglob("*") if path.is_file()] == [
        "open-00/here"
    ]


def test_running_programs_are_killed_when_the_caller_stops(clone: Path, mounted: Path) -> None:
    (clone / "tests/rename/09.t").write_text("echo $$ >pid; exec sleep 600\n")
    (clone / "tests/open/00.t").write_text("until [ -s ../rename-09/pid ]; do sleep 0.01; done\n")
    outcomes = suite.Suite(clone, mounted, os.environ).run(suite.find(clone, []), {}, 2)
    assert next(outcomes).name == "tests/open/00.t"
    outcomes.close()
    pid = (mounted / "rename-09/pid").read_text().strip()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.needs_program("cc")
def test_pjdfstest_is_built_in_a_copy(clone: Path, tmp_path: Path) -> None:
    (clone / "pjdfstest.c").write_text("#include <config.h>\nint main(void) { return HAVE_UTIMENSAT - 1; }\n")
    copy = sources.build_pjdfstest(clone, tmp_path / "copy")
    assert subprocess.run([copy / "pjdfstest"]).returncode == 0
    assert sorted(path.name for path in clone.iterdir()) == ["pjdfstest.c", "tests"]


@pytest.mark.needs_program("cc")
def test_a_source_that_does_not_compile_is_one_sentence(tmp_path: Path) -> None:
    source = tmp_path / "fsx.c"
    source.write_text("#include <nowhere.h>\nint main(void) { return 0; }\n")
    with pytest.raises(sources.NotRunnableError, match=r"fsx\.c does not compile: .*nowhere\.h") as raised:
        sources.build_fsx(source, tmp_path)
    assert "\n" not in str(raised.value)


def test_an_existing_build_of_pjdfstest_is_used(clone: Path, tmp_path: Path) -> None:
    (clone / "pjdfstest").write_text("built")
    assert (sources.build_pjdfstest(clone, tmp_path / "copy") / "pjdfstest").read_text() == "built"


# -- what is missing


def _run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(posix, [str(word) for word in words])
    return done.exit_code, done.output


@pytest.mark.parametrize(("words", "said"), [
    (["none"], "there is no directory {}/none"), (["--fsx", "none"], "there is no directory {}/none"),
    ([""], "{} is no clone of pjdfstest: it has no pjdfstest.c"), (["--fsx", ""], "{} has no fsx.c"),
])  # fmt: skip
def test_bad_input_is_one_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    assert _run(*words[:-1], tmp_path / words[-1]) == (2, f"posix: {said.format(tmp_path)}\n")


def test_neither_suite_nor_fsx_is_a_mistake() -> None:
    code, output = _run()
    assert (code, "give the directory of pjdfstest, or --fsx, or both" in output) == (2, True)


def test_missing_programs_are_reported_with_their_packages(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert _run(clone) == (2, "posix: cc and openssl can't be found; install gcc and libc6-dev, openssl\n")
    (clone / "pjdfstest").touch()
    assert _run(clone) == (2, "posix: openssl can't be found; install openssl\n")


@pytest.mark.parametrize(("user", "device", "reason"), [
    (1000, "/dev/fuse", "^run it as root: .*allow_other"), (0, "/dev/none", r"^/dev/none can't be opened \(No such file"),
])  # fmt: skip
def test_a_machine_that_cannot_mount_is_reported(user: int, device: str, reason: str) -> None:
    with pytest.raises(sources.NotRunnableError, match=reason):
        stage.require_mount(user, device)


# -- fsx


def test_fsx_is_found_at_the_given_path(tmp_path: Path) -> None:
    (tmp_path / "ltp").mkdir()
    (tmp_path / "ltp/fsx.c").touch()
    assert sources.find_fsx(tmp_path) == sources.find_fsx(tmp_path / "ltp/fsx.c") == tmp_path / "ltp/fsx.c"


def test_the_first_finding_of_fsx_is_reported(tmp_path: Path) -> None:
    script = "echo 'Seed set to 1'; echo 'skipping zero size read'; echo 'READ BAD DATA: offset = 0x1'; echo LOG; exit 110"
    wrong = fsx.exercise(["sh", "-c", script], tmp_path, os.environ)
    assert wrong == "fsx ended with 110: READ BAD DATA: offset = 0x1"
    assert fsx.exercise(["true"], tmp_path, os.environ) == ""
