"""`jobfs doctor [JOB]`: check this machine and the account, and print a remedy for each failure (vfs/semantics.md 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from jobfs.api.access import KeySource, check_base_url, check_job_id
from jobfs.cli import preflight, trial
from jobfs.cli.options import setting_options
from jobfs.cli.running import ended, mounts
from jobfs.cli.screen import shown, tell
from jobfs.errors import JobfsError, UsageError
from jobfs.settings import Settings, load

#: How each outcome is shown.
_STYLES: dict[str, dict[str, Any]] = {
    "ok": {"fg": "green"}, "WARN": {"fg": "yellow"}, "FAILED": {"fg": "red", "bold": True},
}  # fmt: skip


@click.command("doctor")
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
    checkup = Checkup(everything=verbose or not trying)
    for what, check in preflight.checks(settings).items():
        checkup.look(what, check)
    checkup.show("ok", f"mounts: {len(mounts(str(settings.state_dir))) or 'none'} running")
    for each in ended(str(settings.state_dir)):
        checkup.show("WARN", each.told)
    key = _account(checkup, settings, job)
    code = 0
    if trying and job and key is not None:
        code = trial.run(settings, job, key, yes, checkup.show)
    _conclude(checkup.marks, trying, everything=verbose, works=not code)
    return code or (1 if checkup.marks["FAILED"] else 0)


def _conclude(marks: Counter[str], trying: bool, *, everything: bool, works: bool) -> None:
    if trying and not everything and marks["ok"]:
        tell(
            f"ok      {marks['ok']} checks of this machine, the account and the server (--verbose shows them)"
        )
    if marks["FAILED"]:
        tell(f"{marks['FAILED']} of these would keep a mount from working")
    elif trying and works:
        tell("a mount of this job works" + (": see WARN for what it costs" if marks["WARN"] else ""))


class Checkup:
    """The checks: each prints a line when it is done, but what is well only if `everything` is to be shown."""

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything
        self.marks = Counter[str]()

    def show(self, mark: str, text: str) -> None:
        """Print a line on a finding."""
        self.marks[mark] += 1
        if mark != "ok" or self._everything:
            click.echo(f"{click.style(f'{mark:6}', **_STYLES[mark])}  {shown(text)}")

    def look(self, what: str, check: Callable[[], str]) -> bool:
        """Make a check, and show what it says; True if that is well."""
        try:
            mark, text = "ok", check()
        except (JobfsError, OSError) as error:
            mark, text = "FAILED", str(error)
        self.show(mark, f"{what}: {text}")
        return mark == "ok"


def _account(checkup: Checkup, settings: Settings, job: str | None) -> KeySource | None:
    """Check the key, the way to the server, and the job. Returns the key, if the server accepts it."""
    from jobfs.api.line import route

    keys: list[KeySource] = []

    def find_key() -> str:
        keys.append(preflight.find_key(settings))
        return "in --api-key-file" if settings.api_key_file else "in PERSTACK_API_KEY"

    def ask(job: str) -> str:
        check_job_id(job)
        if not keys:
            raise UsageError("without an API key the server can't be asked")
        preflight.ask_server(settings, job, keys[0])
        return f"{job} is known, and the key is accepted"

    checkup.look("API key", find_key)
    checkup.look("connection", lambda: f"{settings.base_url}: {route(check_base_url(settings.base_url))}")
    return keys[0] if job and checkup.look("job", partial(ask, job)) else None
