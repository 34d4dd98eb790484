"""`jobfs doctor JOB --try`: asks whether it may write, asks the server all that jobfs relies on, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from jobfs.api.access import KeySource, check_base_url
from jobfs.api.deadline import within
from jobfs.cli.screen import confirmed, tell
from jobfs.errors import UsageError
from jobfs.settings import Settings

#: Seconds without progress after which the server is not waited for, whatever --timeout says.
_PATIENCE = 10.0
_CONNECTIONS = 8


class Stopped(BaseException):
    """A signal: nothing more is asked, and everything is taken away."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def check(job: str | None, trying: bool, yes: bool) -> None:
    """Raises UsageError for options that do not go together."""
    if yes and not trying:
        raise UsageError("--yes belongs to --try: jobfs doctor JOB --try")
    if trying and job is None:
        raise UsageError("--try needs the id of a job: jobfs doctor JOB --try")
    if trying and not yes and not sys.stdin.isatty():
        raise UsageError("--try writes in the workspace of the job, and nobody can be asked here: give --yes")


def run(settings: Settings, job: str, key: KeySource, yes: bool, show: Callable[[str, str], object]) -> int:
    """Try the server of this job, and `show` each answer with its mark; the exit code.

    Whatever happens, everything is taken away at the end.
    """
    base_url = check_base_url(settings.base_url)
    if not yes and not confirmed(
        f"May jobfs make a hidden directory in the workspace of job {job} at {base_url}, write about 20 small files in it, "
        "and delete it again?"
    ):
        tell("nothing was tried")
        return 1
    from jobfs.api.client import Client
    from jobfs.state.server import KnownServer
    from jobfs.trial import questions

    known = KnownServer(settings.state_dir, base_url)
    logging.getLogger("jobfs").addHandler(logging.NullHandler())  # its warnings are in the answers
    tell(f"jobfs: asking {base_url} what jobfs relies on", err=True)

    def add(row: questions.Row) -> None:
        known.learn(**row.finding.facts)
        show(row.finding.verdict, f"{row.asked} {row.finding.answered}: {row.finding.meaning}")

    stopped: Stopped | None = None
    timeout = min(settings.timeout, _PATIENCE)
    with (
        within(),
        _signals(),
        Client(base_url, job, key, timeout=timeout, max_connections=_CONNECTIONS) as client,
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
    return 128 + stopped.number if stopped else 0


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
