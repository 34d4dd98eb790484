"""`jobfs doctor JOB --try`: asks whether it may write, shows what was found, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobfs import __version__
from jobfs.api import KeySource, check_base_url
from jobfs.api.deadline import within
from jobfs.cli import preflight
from jobfs.cli.screen import confirmed, shown, tell
from jobfs.errors import UsageError

if TYPE_CHECKING:
    from jobfs.settings import Settings
    from jobfs.trial import Mounting, Row, Trial

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds without progress after which the server is not waited for, whatever --timeout says.
_PATIENCE = 10.0
#: Columns of the table where nobody looks at it on a terminal.
_WIDE = 160
#: What a report says of a try that was not broken off: whether every question was asked.
_COMPLETE = {True: "asked to the end", False: "given up"}
_STYLES = {"good": "green", "works": "yellow", "not asked": "dim"}


class Stopped(BaseException):
    """A signal: nothing more is asked, and everything is taken away."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def options(command: F) -> F:
    """`--try`, `--yes` and `--report`."""
    for option in (
        click.option("--report", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
                     help="Write what --try has found to FILE as JSON, without key, contents and names."),
        click.option("-y", "--yes", is_flag=True, help="Do not ask before --try writes."),
        click.option("--try", "trying", is_flag=True,
                     help="Try what jobfs relies on in a hidden directory of JOB, and take it away again."),
    ):  # fmt: skip
        command = option(command)
    return command


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
    if report is not None:
        _check_report(report)


def _check_report(report: Path) -> None:
    if os.path.lexists(report) and (os.path.islink(report) or not os.path.isfile(report)):
        raise UsageError(f"can't write the report {report}: it is no plain file; give another name")
    if not os.access(report.absolute().parent, os.W_OK):
        raise UsageError(f"can't write the report {report}: give a file in a directory that you may write in")


def run(settings: Settings, job: str, yes: bool, report: Path | None) -> int:
    """Try the server of this job; 0 if all that jobfs relies on is good. Raises UsageError."""
    base_url = check_base_url(settings.base_url)
    key = preflight.find_key(settings, lambda text: None)
    if not (yes or _may_write(settings, job, key)):
        tell("nothing was tried")
        return 1
    from jobfs.state import server
    from jobfs.trial import QUESTIONS, known

    with server.trying(settings.state_dir, base_url, job) as own:
        rows, stopped, trial = _tried(settings, job, key, own)
        found = None if stopped else known(trial)
        if found is not None:
            server.remember(settings.state_dir, base_url, found)
    _show(rows)
    complete = {question.name for question in QUESTIONS} <= {row.name for row in rows}
    if report is not None:
        _write(report, base_url, rows, "broken off" if stopped else _COMPLETE[complete], key)
    return 128 + stopped.number if stopped else _verdict(rows, complete, found is not None)


def _may_write(settings: Settings, job: str, key: KeySource) -> bool:
    # Nobody is asked about what can't be done.
    preflight.ask_server(settings, job, key)
    return confirmed(
        f"May jobfs make a hidden directory in the workspace of job {job} at {settings.base_url}, write about 35 small files "
        "(0.3 MB) in it, one of them a default of the workspace for a moment, and delete it again?"
    )


@within()
def _tried(settings: Settings, job: str, key: KeySource, own: str) -> tuple[list[Row], Stopped | None, Trial]:
    """Ask all questions; whatever happens, everything is taken away at the end."""
    from jobfs.api.watched import Watched
    from jobfs.trial import QUESTIONS, Place, Trial, clear
    from jobfs.trial import run as ask

    rows: list[Row] = []
    stopped: Stopped | None = None
    watched = Watched(settings.base_url, job, key, timeout=min(settings.timeout, _PATIENCE))
    with (
        _signals(),
        contextlib.closing(watched),
        tempfile.TemporaryDirectory(prefix="jobfs-try-") as scratch,
    ):
        trial = Trial(watched, Place(watched.client, own), Path(scratch), _mounting(settings, job))
        with _progress(len(QUESTIONS)) as progress:
            try:
                for row in ask(trial):
                    rows.append(row)
                    progress(len(rows))
            except Stopped as signalled:
                stopped = signalled
                tell(f"jobfs: {stopped}: taking everything away again", err=True)
            finally:
                try:
                    cleared = clear(trial)
                    rows += [cleared] if cleared else []
                except Stopped as signalled:
                    stopped = signalled
                    tell(f"jobfs: left as it is; the next jobfs doctor {job} --try takes it away", err=True)
    return rows, stopped, trial


def _mounting(settings: Settings, job: str) -> Mounting | None:
    """How a directory of the workspace is mounted for a moment; None where this machine can't."""
    from jobfs.cli.trialmount import mounted

    try:
        preflight.check_device()
        preflight.check_library()
        if os.geteuid() != 0:
            preflight.check_helper()
    except UsageError:
        return None
    return partial(mounted, settings, job)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Meanwhile SIGINT, SIGTERM and SIGHUP raise Stopped."""

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


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of questions that are answered; shown on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    with console.status("trying") as status:
        yield lambda done: status.update(f"trying: {done} of {total}")


def _show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "asked", "answered", "what it means for a mount"):
        table.add_column(name, overflow="fold")
    for row in rows:
        verdict = str(row.finding.verdict)
        table.add_row(
            Text(verdict, _STYLES.get(verdict, "bold red")),
            row.asked,
            Text(shown(row.finding.answered)),
            Text(shown(row.finding.meaning)),
        )
    console.print(table)


def _write(report: Path, base_url: str, rows: list[Row], ended: str, key: KeySource) -> None:
    from jobfs.trial import document

    text = document(base_url, rows, ended, __version__, key())
    draft = report.with_name(f"{report.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(report)
    except OSError as error:
        raise UsageError(f"can't write the report {report}: {error.strerror}") from None
    tell(f"the report is in {report}: it has no key, no contents and no names in it")


def _verdict(rows: list[Row], complete: bool, kept: bool) -> int:
    """Say what it comes to; the exit code. `kept`: what was found is used by mounts."""
    failed = sum(not row.well for row in rows)
    if failed:
        tell(f"{failed} of these {'is' if failed == 1 else 'are'} not as jobfs needs it: see the last column")
    if not complete:
        tell("the rest was not asked")
    if kept:
        tell("mounts of this server use what was found")
    if failed or not complete:
        return 1
    tell("everything that jobfs relies on is good")
    return 0
