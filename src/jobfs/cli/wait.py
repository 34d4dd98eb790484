"""`jobfs wait DIR`: return when the job has ended (vfs/semantics.md 7, jobfs wait)."""

from __future__ import annotations

import click

from jobfs import control
from jobfs.cli.options import complete_mounted, reject_empty, state_dir_option
from jobfs.cli.running import find_mount_of, mount_point_of
from jobfs.cli.screen import print_sentence
from jobfs.document import ASKING, ENDED
from jobfs.errors import JobfsError, UsageError

#: Exit codes, by the job's status; and after `--timeout`, the one that timeout(1) uses.
_CODES = {**dict.fromkeys(ENDED, 1), "completed": 0, ASKING: 3}
_TIMED_OUT = 124
#: Seconds that a mount has to answer after `--timeout`; and the longest timeout that a socket accepts, approximately.
_GRACE, _LONGEST = 5.0, 1e8


@click.command("wait")
@click.argument("directory", callback=reject_empty, metavar="DIR", shell_complete=complete_mounted)
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Wait no longer than this."
)
@state_dir_option
def wait(directory: str, timeout: float | None, state_dir: str | None) -> int:
    """Wait until the job at DIR (any part of a mount) has ended, and DIR shows its last writes.

    A line on stderr says why the command returns, and so does the exit code: 0 the job completed; 1 it failed, was canceled,
    expired or took too many steps; 2 the mount is gone; 3 the job asks for something; 124 after --timeout. While the server
    can't be reached, the command continues waiting. The owner may continue an ended job.
    """
    found, _ = find_mount_of(directory, state_dir)
    where = mount_point_of(found)
    patience = None if timeout is None else min(timeout, _LONGEST) + _GRACE
    try:
        answer = control.call_mount(
            found.path, "wait", {"timeout": timeout}, timeout=patience, on_sentence=print_sentence
        )
    except JobfsError as error:
        raise UsageError(f"{where}: {error}") from None
    if (job := answer["job"]) is not None:
        asks = job["status"] == ASKING
        print_sentence(f"{where}: the job {'asks for something' if asks else 'has ended'}: {job['status']}")
        return _CODES[job["status"]]
    if not answer["mounted"]:
        raise UsageError(f"{where} is unmounted")
    print_sentence(f"{where}: the job has not ended within {timeout:g} s")
    return _TIMED_OUT
