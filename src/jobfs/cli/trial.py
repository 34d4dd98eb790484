"""`jobfs doctor JOB --try`: asks whether it may write, asks the server all that jobfs relies on, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from logging.handlers import BufferingHandler
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from jobfs import __version__
from jobfs.api.address import check_base_url
from jobfs.api.deadline import within
from jobfs.api.key import KeySource
from jobfs.cli.screen import confirmed, tell
from jobfs.errors import UsageError
from jobfs.settings import Settings

if TYPE_CHECKING:
    from jobfs.trial.questions import Row

#: Seconds without progress after which the server is not waited for, whatever --timeout says.
_PATIENCE = 10.0
_CONNECTIONS = 8


class Stopped(BaseException):
    """A signal: nothing more is asked, and everything is taken away."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def check(job: str | None, trying: bool, yes: bool, report: Path | None) -> None:
    """Raises UsageError for options that do not go together, and for a report that can't be written."""
    if not trying:
        if yes or report is not None:
            raise UsageError("--yes and --report belong to --try: jobfs doctor JOB --try")
        return
    if job is None:
        raise UsageError("--try needs the id of a job: jobfs doctor JOB --try")
    if not yes and not sys.stdin.isatty():
        raise UsageError("--try writes in the workspace of the job, and nobody can be asked here: give --yes")
    if report is not None and not os.access(report.absolute().parent, os.W_OK):
        raise UsageError(f"can't write the report {report}: give a file in a directory that you may write in")


def run(
    settings: Settings,
    job: str,
    key: KeySource,
    yes: bool,
    report: Path | None,
    show: Callable[[str, str], object],
) -> int:
    """Try the server of this job, and `show` each answer with its mark; the exit code."""
    base_url = check_base_url(settings.base_url)
    if not yes and not confirmed(
        f"May jobfs make a hidden directory in the workspace of job {job} at {base_url}, write about 20 small files in it, "
        "and delete it again?"
    ):
        tell("nothing was tried")
        return 1
    from jobfs.state.server import KnownServer
    from jobfs.trial.questions import QUESTIONS

    known = KnownServer(settings.state_dir, base_url)
    rows: list[tuple[Row, list[str]]] = []
    tell(f"jobfs: asking {base_url} what jobfs relies on", err=True)
    stopped = _ask(settings, job, key, rows)
    for row, _ in rows:
        known.learn(**row.finding.facts)
        show(row.finding.verdict, f"{row.asked} {row.finding.answered}: {row.finding.meaning}")
    if report is not None:
        ended = "broken off" if stopped else "asked to the end" if len(rows) > len(QUESTIONS) else "given up"
        from jobfs.trial.report import document

        try:
            report.write_text(document(base_url, rows, ended, __version__, key()), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"can't write the report {report}: {error.strerror}") from None
    return 128 + stopped.number if stopped else 0


@within()
def _ask(settings: Settings, job: str, key: KeySource, rows: list[tuple[Row, list[str]]]) -> Stopped | None:
    """Ask all questions, and add to `rows`; whatever happens, everything is taken away at the end."""
    from jobfs.api.client import Client
    from jobfs.trial import questions

    stopped: Stopped | None = None
    timeout = min(settings.timeout, _PATIENCE)

    def add(row: Row) -> None:
        rows.append((row, [record.getMessage() for record in log.buffer]))
        log.flush()

    with (
        _signals(),
        _logged() as log,
        Client(settings.base_url, job, key, timeout=timeout, max_connections=_CONNECTIONS) as client,
        tempfile.TemporaryDirectory(prefix="jobfs-try-") as scratch,
    ):
        trial = questions.Trial(client, Path(scratch))
        try:
            for row in questions.run(trial):
                add(row)
        except Stopped as signalled:
            stopped = signalled
            tell(f"jobfs: {stopped}: taking everything away again", err=True)
        finally:
            try:
                add(questions.clear(trial))
            except Stopped as signalled:
                stopped = signalled
                tell("jobfs: left as it is; a --try in ten minutes takes it away", err=True)
    return stopped


@contextlib.contextmanager
def _logged() -> Iterator[BufferingHandler]:
    """In this block the log is kept and not shown: a line for each request, and one for each wrong answer."""
    logger, kept = logging.getLogger("jobfs"), BufferingHandler(1_000_000)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(kept)
    try:
        yield kept
    finally:
        logger.removeHandler(kept)
        logger.setLevel(before)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """In this block SIGINT, SIGTERM and SIGHUP raise Stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {
        number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
