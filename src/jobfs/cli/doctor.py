"""`jobfs doctor [JOB]`: check this machine and the account, and print a remedy for each failure (semantics.md section 6)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from jobfs.api import KeySource, check_base_url, check_job_id
from jobfs.cli import preflight
from jobfs.cli.keys import find_key
from jobfs.cli.options import Command, load, setting_options
from jobfs.cli.running import mounts
from jobfs.cli.screen import shown
from jobfs.errors import JobfsError, UsageError
from jobfs.state import directory as slot

if TYPE_CHECKING:
    from jobfs.settings import Settings

#: Bytes of free space below which unsent work may soon not fit.
_LITTLE = 256 << 20

Check = tuple[str, Callable[[], str]]


@click.command("doctor", cls=Command, short_help="Check this machine and the account.")
@click.argument("job", required=False)
@setting_options("base_url", "api_key_file", "cache_dir", "state_dir")
def doctor(job: str | None, mount_options: tuple[str, ...], **flags: Any) -> int:
    """Check what a mount needs: FUSE, directories, key, server, and with JOB that job too.

    Changes nothing. Exits with 0 if all is well, else with 1 and a remedy for each failure.
    """
    settings = load(flags, mount_options)
    console = Console(highlight=False, soft_wrap=True)
    failed = 0
    for what, check in _checks(settings, job):
        try:
            found, mark, style = check(), "ok", "green"
        except JobfsError as error:
            found, mark, style = str(error), "FAILED", "bold red"
            failed += 1
        console.print(Text.assemble((f"{mark:6}", style), f"  {what}: {shown(found)}"))
    if failed:
        console.print(f"{failed} of these would keep a mount from working")
    return 1 if failed else 0


def _checks(settings: Settings, job: str | None) -> Iterator[Check]:
    yield "/dev/fuse", lambda: _said(preflight.check_device, "can be opened")
    yield "libfuse 2", _library
    if os.geteuid() != 0:
        yield "fusermount", lambda: _said(preflight.check_helper, "found")
        if settings.allow_other:
            yield "--allow-other", _others
    for path, what, option in preflight.places(settings):
        yield f"{what} directory", partial(_directory, path, what, option)
    yield "unsent work", lambda: _unsent(settings)
    keys: list[KeySource] = []
    yield "API key", lambda: _key(settings, keys)
    yield "server's address", lambda: _said(lambda: check_base_url(settings.base_url), settings.base_url)
    if job is None:
        yield (
            "job",
            lambda: "none given; with its id, the server is asked whether it takes the key and knows the job",
        )
    else:
        yield "job", lambda: _job(settings, job, keys)


def _said(check: Callable[[], object], well: str) -> str:
    check()
    return well


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
        raise UsageError(f"{path} has only {decimal(free)} left: make room, or give another with {option}")
    return f"{path}, {decimal(free)} free"


def _unsent(settings: Settings) -> str:
    running = {found.path for found in mounts(str(settings.state_dir))}
    waiting = [
        found
        for home in (sorted(settings.state_dir.iterdir()) if settings.state_dir.is_dir() else ())
        if home.is_dir()
        for found in slot.others(settings.state_dir, home.name, "")
        if found.path not in running and not (found.record and found.record.clean)
    ]
    if waiting:
        jobs = ", ".join(sorted({f"jobfs recover {found.path.parent.name}" for found in waiting}))
        raise UsageError(f"mounts that ended have left unsent work: {jobs}")
    return f"none from mounts that ended, {len(running)} running"


def _key(settings: Settings, keys: list[KeySource]) -> str:
    warnings: list[str] = []
    keys.append(find_key(settings, warnings.append))
    if warnings:
        raise UsageError(warnings[0])
    return "in --api-key-file" if settings.api_key_file else "in PERSTACK_API_KEY"


def _job(settings: Settings, job: str, keys: list[KeySource]) -> str:
    check_job_id(job)
    if not keys:
        raise UsageError("without an API key the server can't be asked")
    preflight.check_server(settings, job, keys[0])
    return f"{job} is known, and the key is accepted"
