"""`jobfs doctor [JOB] [--try]`: check this machine and the account, and test what a mount needs from the server.

Each problem is shown with a remedy, and the last line says whether a mount works (vfs/semantics.md 6).
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from jobfs.api.access import KeySource, check_job_id, normalize_base_url
from jobfs.api.deadline import limit_time
from jobfs.cli import preflight
from jobfs.cli.options import setting_options
from jobfs.cli.running import find_ended, running_mounts
from jobfs.cli.screen import confirm, escape_for_terminal, format_count, print_escaped
from jobfs.errors import JobfsError, UsageError
from jobfs.settings import Settings, load_settings

#: Seconds without progress after which a request fails, even if --timeout is longer.
_PATIENCE = 10.0
_CONNECTIONS = 8
#: The style of each mark on a terminal; others are yellow.
_STYLES: dict[str, dict[str, Any]] = {
    "ok": {"fg": "green"}, "FAILED": {"fg": "red", "bold": True},
}  # fmt: skip
#: The last line and the exit code, by the worst mark.
_ENDS = {
    "FAILED": ("a mount does not work: fix what FAILED", 1),
    "UNSURE": ("it is not known whether a mount works: see UNSURE", 1),
    "UNSAFE": ("a mount is safe only with --read-only: see UNSAFE", 1),
    "ok": ("a mount works", 0),
}


@click.command("doctor")
@click.argument("job", required=False)
@click.option("--try", "trying", is_flag=True,
              help="Test what jobfs relies on, in a hidden directory of JOB that is deleted afterwards.")  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask before --try writes.")
@click.option("-v", "--verbose", is_flag=True, help="Show passed checks, too.")
@setting_options("base_url", "api_key_file", "cache_dir", "state_dir")
def doctor(
    job: str | None,
    trying: bool,
    yes: bool,
    verbose: bool,
    mount_options: tuple[str, ...],
    **flags: Any,
) -> int:
    """Check what a mount needs: FUSE, directories, the key, the server, and JOB if it is given.

    Without --try, changes nothing on the server. Prints each problem with a remedy. The last line says whether a mount works.
    Exits with 0 if it does, else with 1.
    """
    _check_options(job, trying, yes)
    settings = load_settings(flags, mount_options)
    checkup = Checkup(everything=verbose)
    _check_machine(checkup, settings)
    key = _check_account(checkup, settings, job)
    checkup.print_summary("this machine, the key and the connection to the server")
    if trying and job and key is not None:
        if not yes and not confirm(
            f"May jobfs create a hidden directory in the workspace of job {job} at {settings.base_url}, "
            "write about 20 small files to it, and delete it afterwards?"
        ):
            print_escaped("nothing was tested")
            return 1
        _run_trial(checkup, settings, job, key)
        checkup.print_summary("the server")
    more = "" if trying else ", as far as these checks show: --try tests the server, too"
    return checkup.print_conclusion(
        more if job else " if the server knows the job: jobfs doctor JOB checks that"
    )


def _check_options(job: str | None, trying: bool, yes: bool) -> None:
    """Raise UsageError for options that do not go together."""
    if yes and not trying:
        raise UsageError("--yes needs --try: run jobfs doctor JOB --try --yes")
    if trying and job is None:
        raise UsageError("--try needs the id of a job: run jobfs doctor JOB --try")
    if trying and not yes and not sys.stdin.isatty():
        raise UsageError(
            "--try writes to the workspace of the job, and can't ask without a terminal: give --yes"
        )


class Checkup:
    """The findings of all checks: each prints a line at once, but what is well is printed only with `everything`."""

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything
        self._marks = Counter[str]()
        self._well = 0
        self._slower: list[str] = []

    def print_finding(self, about: str, mark: str, text: str) -> None:
        """Print a finding; those marked "slower" are collected for one line at the end."""
        self._marks[mark] += 1
        if mark == "slower":
            self._slower.append(text)
        elif mark != "ok" or self._everything:
            _print(mark, f"{about}: {text}")

    def run_check(self, subject: str, check: Callable[[], str]) -> bool:
        """Run a check and print its result; return whether all is well."""
        try:
            mark, text = "ok", check()
        except (JobfsError, OSError) as error:
            mark, text = "FAILED", str(error)
        self.print_finding(subject, mark, text)
        return mark == "ok"

    def print_summary(self, group: str) -> None:
        """Print one line on what has been well since the last call, and one on what works but is slower."""
        well, self._well = self._marks["ok"] - self._well, self._marks["ok"]
        if well and not self._everything:
            _print("ok", f"{format_count(well, 'check')} of {group} passed (--verbose shows them)")
        if self._slower:
            _print("ok", f"works, but slower: {'; '.join(self._slower)}")

    def print_conclusion(self, more: str) -> int:
        """Print the last line; return the exit code."""
        text, code = next(end for mark, end in _ENDS.items() if self._marks[mark])
        print_escaped(text + ("" if code else more))
        return code


def _print(mark: str, text: str) -> None:
    click.echo(
        f"{click.style(f'{mark:6}', **_STYLES.get(mark, {'fg': 'yellow'}))}  {escape_for_terminal(text)}"
    )


def _check_machine(checkup: Checkup, settings: Settings) -> None:
    """Check what a mount needs of this machine. List the running mounts, and the ended ones that have left something unsent."""
    for what, check in preflight.list_checks(settings).items():
        checkup.run_check(what, check)
    if running := running_mounts(str(settings.state_dir)):
        checkup.print_finding("mounts", "ok", f"{len(running)} running")
    for each in find_ended(str(settings.state_dir)):
        checkup.print_finding("mounts", "WARN", each.description)


def _check_account(checkup: Checkup, settings: Settings, job: str | None) -> KeySource | None:
    """Check the key, the connection to the server, and the job. Return the key if the server accepts it, else None."""
    from jobfs.api.connection_queue import describe_route

    keys: list[KeySource] = []

    def find_key() -> str:
        keys.append(preflight.find_key(settings))
        return "in --api-key-file" if settings.api_key_file else "in PERSTACK_API_KEY"

    def ask(job: str) -> str:
        check_job_id(job)
        preflight.check_server_and_count_items(settings, job, keys[0])
        return f"the server knows {job} and accepts the key"

    checkup.run_check("API key", find_key)
    checkup.run_check(
        "connection", lambda: f"{settings.base_url}: {describe_route(normalize_base_url(settings.base_url))}"
    )
    return keys[0] if job and keys and checkup.run_check("job", partial(ask, job)) else None


def _run_trial(checkup: Checkup, settings: Settings, job: str, key: KeySource) -> None:
    """Ask the server of this job all questions, and always delete what the trial created. Raises SystemExit after a signal."""
    from jobfs.api.client import Client
    from jobfs.state.server import KnownServer
    from jobfs.trial import questions

    base_url, timeout = normalize_base_url(settings.base_url), min(settings.timeout, _PATIENCE)
    logging.getLogger("jobfs").addHandler(logging.NullHandler())  # its warnings are part of the findings
    print_escaped(f"jobfs: testing whether {base_url} does what jobfs relies on", err=True)
    with (
        limit_time(),
        Client(base_url, job, key, timeout=timeout, max_connections=_CONNECTIONS) as client,
        tempfile.TemporaryDirectory(prefix="jobfs-try-") as scratch,
    ):
        trial = questions.Trial(client, Path(scratch))
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
            signal.signal(number, _exit_on_signal)
        try:
            for row in questions.ask_questions(trial):
                checkup.print_finding(*row)
        except SystemExit:
            print_escaped("jobfs: deleting everything that was created", err=True)
            raise
        finally:
            for row in questions.clean_up_trial(trial):
                checkup.print_finding(*row)
    KnownServer(settings.state_dir, base_url).learn(**trial.facts)


def _exit_on_signal(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
