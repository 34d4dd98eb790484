"""The judge of files that the job and programs write at the same time is shown what it must report."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.stress.load.lines import JOB, Lines
from tests.support.judge import Found

LOG, COPY, OLD = "d/log", "d/log.conflict-20261130T042204Z", "d/log.7"


def _text(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


class Written:
    """A first line, one of the job and two of programs; the last of these was never acknowledged."""

    def __init__(self) -> None:
        self.lines = Lines()
        self.first, self.jobs, self.mine, self.failed = (
            self.lines.new("d", writer) for writer in ("before", JOB, "program", "program")
        )
        self.other = self.lines.new("e", "program")
        self.lines.acknowledge(self.first, self.jobs, self.mine)


#: What the server has at the end, and which checks fail.
LOST, NEEDLESS, TORN, TWICE = (
    "acknowledged lines that no file has", "conflict copies without a cause", "torn files",
    "paths with more than one item",
)  # fmt: skip
ENDS: dict[str, tuple[Callable[[Written], Found], list[str]]] = {
    "all lines in the file": (lambda w: {LOG: [_text(w.first, w.jobs, w.mine)]}, []),
    "a line whose write failed": (lambda w: {LOG: [_text(w.first, w.jobs, w.mine, w.failed)]}, []),
    "at a name from the job": (lambda w: {OLD: [_text(w.first, w.jobs)], LOG: [_text(w.mine)]}, []),
    "a copy of what the job wrote unread": (
        lambda w: {LOG: [_text(w.first, w.mine)], COPY: [_text(w.first, w.jobs)]}, [],
    ),
    "the job's line lost": (lambda w: {LOG: [_text(w.first, w.mine)]}, [LOST]),
    "a program's line lost": (lambda w: {LOG: [_text(w.first, w.jobs)]}, [LOST]),
    "a copy of what was read": (
        lambda w: {LOG: [_text(w.first, w.jobs, w.mine)], COPY: [_text(w.first, w.jobs)]}, [NEEDLESS],
    ),
    "a copy of a program's version": (
        lambda w: {LOG: [_text(w.first, w.jobs)], COPY: [_text(w.first, w.mine)]}, [NEEDLESS],
    ),
    "two copies of one version": (
        lambda w: {
            LOG: [_text(w.mine)], COPY: [_text(w.first, w.jobs)],
            COPY.replace("Z", "Z-1"): [_text(w.first, w.jobs)],
        }, [NEEDLESS],
    ),
    "written over the job's line": (
        lambda w: {LOG: [_text(w.first, w.mine) + w.jobs[-9:] + b"\n"]}, [LOST, TORN],
    ),
    "a hole": (lambda w: {LOG: [_text(w.first, w.jobs) + bytes(30) + _text(w.mine)]}, [LOST, TORN]),
    "an end that is cut": (lambda w: {LOG: [_text(w.first, w.jobs, w.mine) + w.failed[:9]]}, [TORN]),
    "a line twice": (lambda w: {LOG: [_text(w.first, w.jobs, w.mine, w.mine)]}, [TORN]),
    "a line of another directory": (lambda w: {LOG: [_text(w.first, w.jobs, w.mine, w.other)]}, [TORN]),
    "two items": (lambda w: {LOG: [_text(w.first, w.jobs), _text(w.first, w.mine)]}, [TWICE]),
}  # fmt: skip


@pytest.mark.parametrize(("there", "broken"), ENDS.values(), ids=ENDS)
def test_losses_and_copies_without_a_cause_are_reported(
    there: Callable[[Written], Found], broken: list[str]
) -> None:
    written = Written()
    checks = written.lines.judge(there(written))
    assert [check.what for check in checks if not check.held] == broken


def test_a_copy_that_a_lost_answer_explains_is_allowed() -> None:
    written = Written()
    there: Found = {
        LOG: [_text(written.first, written.jobs, written.mine)],
        COPY: [_text(written.first, written.jobs)],
    }
    assert all(check.held for check in written.lines.judge(there, needless=1))


#: What a program reads, and whether that is one version.
READS: dict[str, tuple[Callable[[Written], bytes], bool]] = {
    "a version": (lambda w: _text(w.first, w.jobs), True),
    "nothing": (lambda w: b"", True),
    "a line that was not acknowledged yet": (lambda w: _text(w.first, w.failed), True),
    "as many bytes as another version has": (lambda w: _text(w.first, w.jobs)[:-3], False),
    "from the middle": (lambda w: _text(w.first, w.jobs)[3:], False),
    "zeroes at the end": (lambda w: _text(w.first) + bytes(40), False),
    "a mixture of two versions": (lambda w: _text(w.first, w.jobs, w.jobs), False),
}


@pytest.mark.parametrize(("read", "whole"), READS.values(), ids=READS)
def test_torn_reads_are_reported(read: Callable[[Written], bytes], whole: bool) -> None:
    """vfs/semantics.md 3.13, 3.17."""
    written = Written()
    written.lines.read(LOG, read(written))
    checks = written.lines.judge({LOG: [_text(written.first, written.jobs, written.mine)]})
    assert [check.what for check in checks if not check.held] == ([] if whole else ["torn reads"])


@pytest.mark.parametrize("read", READS)
def test_a_read_of_the_known_size_may_only_miss_the_end(read: str) -> None:
    """vfs/semantics.md 3.17: what was read is a version's beginning, as long as another version."""
    written = Written()
    what, whole = READS[read]
    written.lines.read(LOG, what(written), may_be_cut=True)
    checks = written.lines.judge({LOG: [_text(written.first, written.jobs, written.mine)]})
    allowed = whole or read == "as many bytes as another version has"
    assert all(check.held for check in checks) == allowed
