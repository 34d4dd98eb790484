"""`jobfs watch [DIR]`: show what the job does, one line per change."""

from __future__ import annotations

import json
import queue
import select
import sys
import threading
import time

import click

from jobfs import control
from jobfs.cli.options import complete_mounted, reject_empty, state_dir_option
from jobfs.cli.running import find_mounts_of, mount_point_of
from jobfs.cli.screen import escape_for_terminal, format_size, print_escaped
from jobfs.cli.status import describe_job
from jobfs.document import WatchEvent
from jobfs.errors import JobfsError
from jobfs.names import join
from jobfs.state import directory as directories

#: Seconds within which this command notices that nobody reads its output, or that a process is gone.
_POLL_INTERVAL = 1.0
#: The colour of each kind of change; others have the terminal's own colour.
_COLOURS = {
    "created": "green", "changed": "yellow", "deleted": "red", "renamed": "cyan", "job": "blue", "conflict": "bright_red",
    "failed": "bright_red", "server": "bright_red", "missed": "bright_red",
}  # fmt: skip


@click.command("watch")
@click.argument(
    "directory", callback=reject_empty, required=False, metavar="[DIR]", shell_complete=complete_mounted
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line (fields: man jobfs-watch)."
)
@state_dir_option
def watch(directory: str | None, as_json: bool, state_dir: str | None) -> int:
    """Print the changes that the job makes in DIR (any part of a mount), or in every mount, one per line.

    The job's step and status, conflicts and failed saves are shown, too. While this command runs, the mount lists the
    workspace once every --ttl. Exits with 0 at Ctrl-C, with 1 when no mount is left.
    """
    every = find_mounts_of(directory, state_dir)
    # Holds one event: those not printed yet wait in the mounts, which limit their number.
    told: queue.Queue[WatchEvent | JobfsError] = queue.Queue(1)
    for found, inside in every:
        threading.Thread(target=_listen, args=(found, inside, told), daemon=True).start()
    left = len(every)
    try:
        while left:
            if (news := _next_event(told)) is None:
                continue
            if isinstance(news, JobfsError):
                print_escaped(f"jobfs: {news}", err=True)
                left -= 1
            else:
                click.echo(json.dumps(news) if as_json else _format_event(news, several=len(every) > 1))
    except KeyboardInterrupt:
        return 0
    return 1


def _listen(
    found: directories.FoundDirectory, inside: str, events: queue.Queue[WatchEvent | JobfsError]
) -> None:
    """Put the events of a mount into the queue, and at the end the reason why no more will come."""
    where = mount_point_of(found)
    try:
        control.call_mount(found.path, "watch", {"path": inside}, on_event=events.put)
        events.put(JobfsError(f"{where} is unmounted"))
    except control.NoMountError as error:
        slow = "its changes were not read for ten seconds, and it sends no more"
        events.put(JobfsError(f"{where}: {slow if directories.is_in_use(found, _POLL_INTERVAL) else error}"))
    except JobfsError as error:
        events.put(JobfsError(f"{join(where, inside)}: {error}"))


def _next_event(events: queue.Queue[WatchEvent | JobfsError]) -> WatchEvent | JobfsError | None:
    """Return the next event, None after a while without one. Raises BrokenPipeError if nobody reads the output."""
    reader = select.poll()
    reader.register(sys.stdout, 0)  # reports errors only
    if reader.poll(0):
        raise BrokenPipeError
    try:
        return events.get(timeout=_POLL_INTERVAL)
    except queue.Empty:
        return None


def _format_event(event: WatchEvent, *, several: bool) -> str:
    """Format a change as a line for a person; with `several` mounts, each path begins with its mount."""
    slash = "/" * event["directory"]
    names = [name + slash for name in (event["old"], event["path"]) if name is not None]
    if several:
        names = [join(event["mount"], name) for name in names] or [event["mount"]]
    facts = [
        " -> ".join(map(escape_for_terminal, names)),
        format_size(event["size"]) if event["size"] is not None else "",
        escape_for_terminal(event["reason"] or ""),
        escape_for_terminal(describe_job(event["job"])) if event["job"] else "",
    ]
    clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    what = click.style(f"{escape_for_terminal(event['what']):8}", fg=_COLOURS.get(event["what"]))
    return "  ".join(filter(None, (clock, what, *facts)))
