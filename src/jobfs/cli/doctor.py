"""`jobfs doctor [JOB]`: check this machine and the account, and print a remedy for each failure (semantics.md section 6)."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobfs import control, mountpoint
from jobfs.api import KeySource, check_base_url, check_job_id
from jobfs.cli import preflight, trial
from jobfs.cli.dead import is_stale, remedy
from jobfs.cli.keys import find_key
from jobfs.cli.options import Command, load, setting_options
from jobfs.cli.running import mounts
from jobfs.cli.screen import counted, shown
from jobfs.errors import JobfsError, UsageError
from jobfs.state import directory as slot
from jobfs.state.left import left_in

if TYPE_CHECKING:
    from jobfs.settings import Settings

#: Bytes of free space below which unsent work may soon not fit.
_LITTLE = 256 << 20
#: Seconds that clocks may differ without times of files looking odd.
_SKEW = 10.0

Check = tuple[str, Callable[[], str]]

#: How each outcome is shown.
_STYLES = {"ok": "green", "WARN": "yellow", "FAILED": "bold red"}


class DoubtError(JobfsError):
    """Something that a mount works in spite of; says what, and what to do."""


@click.command("doctor", cls=Command, short_help="Check this machine and the account.")
@click.argument("job", required=False)
@trial.options
@setting_options("base_url", "api_key_file", "cache_dir", "state_dir")
def doctor(
    job: str | None,
    trying: bool,
    yes: bool,
    report: Path | None,
    mount_options: tuple[str, ...],
    **flags: Any,
) -> int:
    """Check what a mount needs: FUSE, directories, key, server, and with JOB that job too.

    Changes nothing without --try. Exits with 0 if a mount would work, else with 1, and a remedy for each failure.
    """
    from rich.console import Console
    from rich.text import Text

    trial.check(job, trying, yes, report)
    settings = load(flags, mount_options)
    console = Console(highlight=False, soft_wrap=True)
    marks = Counter[str]()
    for what, check in _checks(settings, job):
        mark, found = _outcome(check)
        marks[mark] += 1
        console.print(Text.assemble((f"{mark:6}", _STYLES[mark]), f"  {what}: {shown(found)}"))
    if marks["FAILED"]:
        console.print(f"{marks['FAILED']} of these would keep a mount from working")
    code = 1 if marks["FAILED"] else 0
    return max(trial.run(settings, job, yes, report), code) if trying and job else code


def _outcome(check: Callable[[], str]) -> tuple[str, str]:
    """The mark and the text of a check, whatever happens in it."""
    try:
        return "ok", check()
    except DoubtError as doubt:
        return "WARN", str(doubt)
    except JobfsError as error:
        return "FAILED", str(error)
    except OSError as error:
        return "FAILED", f"can't be checked: {error.strerror}" + (
            f": {error.filename}" if error.filename else ""
        )
    except Exception as error:
        return "FAILED", f"can't be checked: unexpected {type(error).__name__}: {error}"


def _checks(settings: Settings, job: str | None) -> Iterator[Check]:
    """Every check; what an earlier one has found is there for the later ones."""
    yield from _of_machine(settings)
    yield from _of_mounts(settings)
    yield from _of_server(settings, job)


def _of_machine(settings: Settings) -> Iterator[Check]:
    yield "/dev/fuse", lambda: _said(preflight.check_device, "can be opened")
    yield "libfuse 2", _library
    if os.geteuid() != 0:
        yield "fusermount", lambda: _said(preflight.check_helper, "found")
        if settings.allow_other:
            yield "--allow-other", _others
    for path, what, option in preflight.places(settings):
        yield f"{what} directory", partial(_directory, path, what, option)


def _of_mounts(settings: Settings) -> Iterator[Check]:
    running: list[slot.Found] = []
    yield "mounts", lambda: _running(settings, running)
    for found in running:
        yield "mount", partial(_mount, found)
    dead: list[str] = []
    yield "dead mounts", lambda: _dead(dead)
    for point in dead:
        yield "mount", partial(_doubt, remedy(point))
    ended: list[slot.Found] = []
    unreadable: list[str] = []
    yield "unsent work", lambda: _ended(settings, ended, unreadable)
    for sentence in unreadable:
        yield "unsent work", partial(_doubt, sentence)
    for found in ended:
        yield "unsent work", partial(_left, found)


def _of_server(settings: Settings, job: str | None) -> Iterator[Check]:
    keys: list[KeySource] = []
    yield "API key", lambda: _key(settings, keys)
    yield "server's address", lambda: _said(lambda: check_base_url(settings.base_url), settings.base_url)
    yield "connection", lambda: _route(settings)
    if job is None:
        yield (
            "job",
            lambda: "none given; with its id, the server is asked whether it takes the key and knows the job",
        )
        return
    answers: list[preflight.Answer] = []
    yield "job", lambda: _job(settings, job, keys, answers)
    for answer in answers:
        yield "clock", partial(_clock, answer.ahead)
        if answer.tls:
            yield "TLS", partial(str, answer.tls)


def _said(check: Callable[[], object], well: str) -> str:
    check()
    return well


def _doubt(sentence: str) -> str:
    raise DoubtError(sentence)


def _library() -> str:
    preflight.check_library()
    return os.environ.get("FUSE_LIBRARY_PATH", "found")


def _others() -> str:
    if not preflight.others_allowed():
        raise UsageError("it needs the line user_allow_other in /etc/fuse.conf")
    return "allowed"


def _directory(path: Path, what: str, option: str) -> str:
    preflight.check_writable(path, what, option)
    free = shutil.disk_usage(path).free
    if free < _LITTLE:
        raise DoubtError(f"{path} has only {_size(free)} left: make room, or give another with {option}")
    return f"{path}, {_size(free)} free"


def _running(settings: Settings, running: list[slot.Found]) -> str:
    running += mounts(str(settings.state_dir))
    log = settings.state_dir / "JOB" / "MOUNT" / "jobfs.log"
    return f"{len(running)} running; the log of one in the background is {log}"


def _mount(found: slot.Found) -> str:
    """A running mount, and where its log is."""
    assert found.record is not None
    directory = found.record.directory
    try:
        status = control.call(found.path, "status")
        log, problems = status["log"], len(status["problems"])
    except (JobfsError, KeyError, TypeError) as error:
        raise DoubtError(
            f"{directory} (process {found.record.pid}) does not say how it is: {error}"
        ) from None
    if problems:
        raise DoubtError(f"{directory} needs you: jobfs status {directory}; its log is {log}")
    return f"{directory} (process {found.record.pid}) is well; its log is {log}"


def _dead(dead: list[str]) -> str:
    """Find the mounts of this user whose process is gone."""
    ours = [
        mount.point
        for mount in mountpoint.mounts()
        if mount.kind == "fuse.jobfs" and mount.user in (None, os.geteuid())
    ]
    dead += [point for point in dict.fromkeys(ours) if is_stale(point)]
    return str(len(dead) or "none")


def _ended(settings: Settings, ended: list[slot.Found], unreadable: list[str]) -> str:
    """Find what mounts that ended have left; whatever else is in the state directory is none of ours."""
    try:
        names = sorted(os.listdir(settings.state_dir))
    except FileNotFoundError:
        names = []
    for name in names:
        try:
            os.listdir(settings.state_dir / name)
            ended += slot.others(settings.state_dir, name, "")
        except NotADirectoryError:
            continue
        except OSError as error:
            unreadable.append(
                f"{error.filename or name} can't be read ({error.strerror}): make it yours, or remove it"
            )
    # Those that said at their end that they had left nothing are not looked into.
    ended[:] = [found for found in ended if not (found.record and found.record.clean)]
    return f"{counted(len(ended), 'mount')} ended without a last word" if ended else "none"


def _left(found: slot.Found) -> str:
    job = found.path.parent.name
    where = f"the mount at {found.record.directory}" if found.record else f"a mount ({found.path})"
    log = f"; its log is {found.path / 'jobfs.log'}" if (found.path / "jobfs.log").exists() else ""
    try:
        left = left_in(found.path)
    except JobfsError as error:
        raise DoubtError(
            f"what {where} has left can't be told: {error}; jobfs recover {job} puts it aside{log}"
        ) from None
    if left.changes:
        files = f"{counted(left.files, 'file')} ({_size(left.bytes)}) unsent" if left.files else ""
        others = f"{counted(left.unfinished, 'change')} unfinished" if left.unfinished else ""
        what = " and ".join(filter(None, (files, others)))
        raise DoubtError(f"{where} has left {what}: jobfs recover {job}{log}")
    return f"{where} was ended from outside, and had sent everything"


def _key(settings: Settings, keys: list[KeySource]) -> str:
    warnings: list[str] = []
    keys.append(find_key(settings, warnings.append))
    if warnings:
        raise DoubtError(warnings[0])
    return "in --api-key-file" if settings.api_key_file else "in PERSTACK_API_KEY"


def _route(settings: Settings) -> str:
    from jobfs.api.transport import route

    return route(check_base_url(settings.base_url))


def _job(settings: Settings, job: str, keys: list[KeySource], answers: list[preflight.Answer]) -> str:
    check_job_id(job)
    if not keys:
        raise UsageError("without an API key the server can't be asked")
    answers.append(preflight.ask_server(settings, job, keys[0]))
    return f"{job} is known, and the key is accepted"


def _clock(ahead: float) -> str:
    if abs(ahead) <= _SKEW:
        return f"within {max(abs(ahead), 1.0):.0f} s of the server's"
    way = "behind" if ahead > 0 else "ahead of"
    raise DoubtError(
        f"this machine's is {abs(ahead):.0f} s {way} the server's, and times of files will look odd: "
        "set it, e.g. timedatectl set-ntp true"
    )


def _size(number: int) -> str:
    from rich.filesize import decimal

    return decimal(number)
