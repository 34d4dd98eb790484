"""`jobfs doctor [JOB]`: check this machine and the account, and print a remedy for each failure (vfs/semantics.md 6)."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from jobfs.api.access import KeySource, check_base_url, check_job_id
from jobfs.cli import preflight, trial
from jobfs.cli.options import Command, setting_options
from jobfs.cli.running import ended, mounts
from jobfs.cli.screen import shown, size, tell
from jobfs.errors import JobfsError, UsageError
from jobfs.settings import Settings, load

#: How each outcome is shown.
_STYLES: dict[str, dict[str, Any]] = {
    "ok": {"fg": "green"}, "WARN": {"fg": "yellow"}, "FAILED": {"fg": "red", "bold": True},
}  # fmt: skip


@click.command("doctor", cls=Command, short_help="Check this machine and the account.")
@click.argument("job", required=False)
@click.option("--try", "trying", is_flag=True,
              help="Try what jobfs relies on in a hidden directory of JOB, and take it away again.")  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask before --try writes.")
@click.option("-v", "--verbose", is_flag=True, help="Show what is well with --try, too.")
@setting_options("base_url", "api_key_file", "cache_dir", "state_dir")
def doctor(
    job: str | None,
    trying: bool,
    yes: bool,
    verbose: bool,
    mount_options: tuple[str, ...],
    **flags: Any,
) -> int:
    """Check what a mount needs: FUSE, directories, key, server, and with JOB that job too.

    Changes nothing on the server without --try. Exits with 0 if a mount would work, else with 1, and a remedy for each failure.
    """
    trial.check(job, trying, yes)
    settings = load(flags, mount_options)
    checkup = Checkup(settings, everything=verbose or not trying)
    checkup.machine()
    checkup.mounts()
    key = checkup.server(job)
    code = 0
    if trying and job and key is not None:
        code = trial.run(settings, job, key, yes, checkup.show)
    failed, well = checkup.marks["FAILED"], checkup.marks["ok"]
    if trying and not verbose and well:
        tell(f"ok      {well} checks of this machine, the account and the server (--verbose shows them)")
    if failed:
        tell(f"{failed} of these would keep a mount from working")
    elif trying and not code:
        tell("a mount of this job works" + (": see WARN for what it costs" if checkup.marks["WARN"] else ""))
    return code or (1 if failed else 0)


class Checkup:
    """The checks: each prints a line when it is done, but what is well only if `everything` is to be shown."""

    def __init__(self, settings: Settings, *, everything: bool) -> None:
        self._settings = settings
        self._everything = everything
        self.marks = Counter[str]()

    def show(self, mark: str, text: str) -> None:
        """Print a line on a finding."""
        self.marks[mark] += 1
        if mark == "ok" and not self._everything:
            return
        click.echo(f"{click.style(f'{mark:6}', **_STYLES[mark])}  {shown(text)}")

    def _check(self, what: str, check: Callable[[], Any], well: str | Callable[[Any], str] = str) -> Any:
        """Make one check. Returns what it finds, None if it failed. `well`: the text for that, or a function that makes it."""
        found = None
        try:
            found = check()
            mark, text = "ok", well if isinstance(well, str) else well(found)
        except JobfsError as error:
            mark, text = "FAILED", str(error)
        except Exception as error:
            mark, text = "FAILED", f"can't be checked: {type(error).__name__}: {error}"
        self.show(mark, f"{what}: {text}")
        return found

    def machine(self) -> None:
        """Check what a mount needs on this machine."""
        self._check("/dev/fuse", preflight.check_device, "can be opened")
        self._check(
            "libfuse 2", preflight.check_library, lambda _: os.environ.get("FUSE_LIBRARY_PATH", "found")
        )
        if os.geteuid() != 0:
            self._check("fusermount", preflight.check_helper, "found")
        for path, what, option in preflight.places(self._settings):
            self._check(f"{what} directory", partial(_directory, path, what, option))

    def mounts(self) -> None:
        """Show the mounts that run, and what ended ones have left."""
        state_dir = self._settings.state_dir
        self._check(
            "mounts",
            lambda: len(mounts(str(state_dir))),
            lambda number: (
                f"{number} running: jobfs status shows how they are" if number else "none is running"
            ),
        )
        for each in ended(str(state_dir)):
            self.show("WARN", each.told)

    def server(self, job: str | None) -> KeySource | None:
        """Ask for the job. Returns the key, if the server accepts it."""
        settings = self._settings
        in_file = settings.api_key_file is not None
        key: KeySource | None = self._check(
            "API key",
            lambda: preflight.find_key(settings, lambda text: self.show("WARN", f"API key: {text}")),
            "in --api-key-file" if in_file else "in PERSTACK_API_KEY",
        )
        self._check("connection", lambda: _route(settings))
        if job is None:
            return None

        def ask() -> int:
            check_job_id(job)
            if key is None:
                raise UsageError("without an API key the server can't be asked")
            return preflight.ask_server(settings, job, key)

        known = self._check("job", ask, f"{job} is known, and the key is accepted")
        return None if known is None else key


def _directory(path: Path, what: str, option: str) -> str:
    preflight.check_writable(path, what, option)
    return f"{path}, {size(shutil.disk_usage(path).free)} free"


def _route(settings: Settings) -> str:
    from jobfs.api.line import route

    return f"{settings.base_url}: {route(check_base_url(settings.base_url))}"
