"""`jobfs recover JOB`: finish the work of mounts that were killed, without mounting (save/protocol.md, Recovery)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobfs.api.access import KeySource, check_job_id, normalize_base_url
from jobfs.api.deadline import limit_time
from jobfs.cli import logs, preflight
from jobfs.cli.options import Rare, complete_directories, reject_empty, setting_options
from jobfs.cli.running import describe_leftovers, mount_point_of
from jobfs.cli.salvage import save_unsent
from jobfs.cli.screen import confirm, format_size, print_escaped, show_progress
from jobfs.document import describe_kept
from jobfs.errors import JobfsError, UsageError
from jobfs.names import is_mount_id, replace_hidden_names
from jobfs.settings import Settings, load_settings
from jobfs.state import directory as directories

if TYPE_CHECKING:
    from jobfs.mount import MountParts


@click.command("recover")
@click.argument("job")
@click.option(
    "--of", "mount", metavar="MOUNT", cls=Rare,
    help="Give visible names to unfinished saves of a mount whose state directory is lost; MOUNT: its 12 digits in the status.",
)  # fmt: skip
@click.option(
    "--save", "to", metavar="TO", callback=reject_empty, shell_complete=complete_directories,
    help="Copy unsent files to the directory TO instead, without the server and without a key.",
)  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@setting_options("base_url", "api_key_file", "state_dir")
def recover(
    job: str,
    mount: str | None,
    to: str | None,
    yes: bool,
    mount_options: tuple[str, ...],
    **flags: Any,
) -> int:
    """Send the files that ended mounts of JOB on this machine have left unsent.

    The next mount of the job does the same. Exits with 0 if the server has everything; otherwise lists the unsent files, and
    exits with 1.

    With --save, nothing is sent or changed: the unsent files are copied to TO, under their paths, and no file in TO is
    overwritten. Exits with 0 if all were copied, else with 1.
    """
    settings = load_settings(flags, mount_options)
    check_job_id(job)
    if to is not None:
        if mount is not None:
            raise UsageError("--of and --save exclude each other")
        return save_unsent(settings.state_dir, job, Path(to))
    normalize_base_url(settings.base_url)
    if settings.read_only:
        raise UsageError(
            "jobfs recover sends files, so it can't be read-only: leave out -o ro and JOBFS_READ_ONLY"
        )
    key = preflight.find_key(settings)
    logs.set_up_logging(settings.log_level, key, settings.log_format)
    preflight.check_server_and_count_items(settings, job, key)
    if mount is not None:
        return _expose_hidden_items(settings, job, key, mount, yes)
    return _finish_ended_mounts(settings, job, key)


def _finish_ended_mounts(settings: Settings, job: str, key: KeySource) -> int:
    """Finish the work that each ended mount of the job has left; return the exit code."""
    running, ended = (
        _report_running_if_any(settings, job),
        directories.find_ended_of_job(settings.state_dir, job, ""),
    )
    if not ended and not running:
        print_escaped(f"nothing to send: {settings.state_dir} has nothing of job {job}")
    outcomes = [_finish_or_report(settings, job, key, found) for found in ended]
    left = [*chain.from_iterable(filter(None, outcomes))]
    if left:
        print_escaped(f"jobfs: {describe_kept(left)}", err=True)
    return 1 if running or left or None in outcomes else 0


def _report_running_if_any(settings: Settings, job: str) -> bool:
    """Name the running mounts of the job on stderr; return whether there are any."""
    running = [
        found for found in directories.find_running(settings.state_dir) if found.path.parent.name == job
    ]
    for found in running:
        directory = mount_point_of(found) or "?"
        print_escaped(f"jobfs: the mount at {directory} is running, and sends its own files", err=True)
    return bool(running)


def _finish_or_report(
    settings: Settings, job: str, key: KeySource, found: directories.FoundDirectory
) -> list[Any] | None:
    """Call `_finish_ended_mount`; if that fails, print the error and return None, so that the others are still finished."""
    try:
        return _finish_ended_mount(
            settings, job, key, directories.reopen_state_directory(found, settings.base_url)
        )
    except JobfsError as error:
        print_escaped(f"jobfs: {error}", err=True)
        return None


@limit_time()
def _finish_ended_mount(
    settings: Settings, job: str, key: KeySource, place: directories.StateDirectory
) -> list[Any]:
    """Do for one state directory what its next mount would do; return what is still left."""
    place.write_record()
    where = place.record.directory
    with (
        show_progress(f"sending unsent files of {where}") as progress,
        _run_without_mount(settings, job, key, place) as mounted,
    ):
        had_left = bool(mounted.vfs.taken_up or mounted.vfs.warnings)
        for line in (*mounted.vfs.warnings, *(f"taken up: {line}" for line in mounted.vfs.taken_up)):
            print_escaped(line)
        left: list[Any] = list(mounted.vfs.flush_all(None, None, progress))
        # Deletes wait until no request of the killed mount can still be executed (R7); the listing after that is short.
        if not left:
            left = mounted.vfs.wait_for_cleanup(2 * settings.request_lifetime + settings.timeout)
        if not left:
            print_escaped(
                f"{'finished: everything' if had_left else 'nothing was'} left by the mount at {where}"
            )
    return left


@limit_time()
def _expose_hidden_items(settings: Settings, job: str, key: KeySource, mount: str, yes: bool) -> int:
    if not is_mount_id(mount):
        raise UsageError(
            f"{mount} is not a mount id: give the 12 digits (0-9, a-f) that `jobfs status` shows"
        )
    if (settings.state_dir / job / mount / "journal.db").exists():
        raise UsageError(
            f"the state of mount {mount} is on this machine: run {settings.recovery_command(job)} "
            "without --of, which loses nothing"
        )
    with tempfile.TemporaryDirectory(prefix="jobfs-recover-") as directory:
        # In a state directory of its own, which keeps it from taking over what other mounts have left on this machine.
        place = directories.acquire_state_directory(Path(directory), job, "(recover)", settings.base_url)
        with _run_without_mount(settings, job, key, place) as mounted:
            mounted.vfs.refresh()
            found = mounted.vfs.hidden_items_of(mount)
            for item in found:
                bytes = "" if item.is_dir else f" ({format_size(item.size or 0)})"
                print_escaped(f"unfinished: {replace_hidden_names(item.path)}{bytes}")
            if not found:
                print_escaped(f"mount {mount} has left nothing on the server")
            elif yes or confirm(f"Is mount {mount} gone for good? Then these get visible names"):
                for line in mounted.vfs.expose_hidden_items(mount):
                    print_escaped(line)
            else:
                print_escaped("nothing was changed")
                return 1
    return 0


@contextmanager
def _run_without_mount(
    settings: Settings, job: str, key: KeySource, place: directories.StateDirectory
) -> Iterator[MountParts]:
    """Run the parts of a mount without a mount point; at the end, record in the state directory whether anything is left."""
    from jobfs.cli import graph

    mounted = graph.build_mount(settings, job, place, key)
    try:
        mounted.vfs.start()
        yield mounted
    except KeyboardInterrupt:
        # After an interrupt, do not wait for requests in flight: the next run checks their outcome.
        mounted.abort_requests()
        raise
    finally:
        mounted.vfs.stop()
        clean = not describe_leftovers(directories.inspect_directory(place.path))
        if clean:
            mounted.vfs.empty_trash()
        mounted.close()
        place.write_record(clean=clean)
        place.close()
