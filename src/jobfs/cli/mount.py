"""`jobfs mount JOB DIR`: check everything, then serve in the foreground or in the background."""

from __future__ import annotations

import gc
import logging
import os
from typing import TYPE_CHECKING, Any

import click

from jobfs.cli import logs, preflight
from jobfs.cli.completion import directories
from jobfs.cli.front import Front, Terminal, in_background
from jobfs.cli.keys import find_key
from jobfs.cli.options import Command, load, setting_options
from jobfs.cli.running import registered
from jobfs.state import directory as slot

if TYPE_CHECKING:
    from jobfs.settings import Settings

#: When Python looks for cycles among the youngest objects, and how seldom among older ones.
_CYCLES = (20_000, 20, 50)

#: The settings that `--help` shows.
MAIN = (
    "base_url", "api_key_file", "cache_dir", "cache_size", "state_dir", "ttl", "write_back_delay", "sync_on_close",
    "read_only", "timeout", "local_only", "allow_other", "log_level", "mount_options",
)  # fmt: skip
_EPILOG = (
    "Each setting is also a variable, as JOBFS_CACHE_SIZE, and a mount option, as -o cache_size=1GiB. "
    "`jobfs JOB DIR -o …` mounts as well: so do `mount -t fuse.jobfs` and /etc/fstab."
)


@click.command("mount", cls=Command, short_help="Mount a job's workspace at DIR.", epilog=_EPILOG)
@click.argument("job")
@click.argument("directory", metavar="DIR", shell_complete=directories)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; Ctrl-C unmounts.")
@setting_options(*MAIN)
def mount(job: str, directory: str, foreground: bool, mount_options: tuple[str, ...], **flags: Any) -> int:
    """Mount the workspace of JOB at DIR: an empty directory, or one that is made now.

    The API key is read from PERSTACK_API_KEY or --api-key-file. Returns once the mount answers; it then runs
    in the background until `jobfs umount DIR`.
    """
    settings = load(flags, mount_options)
    with preflight.mount_point_made(directory) as remove:
        place = preflight.check_machine(settings, job, directory, Terminal().say)

        def serve(front: Front) -> int:
            return _serve(settings, job, place, front)

        if foreground:
            return serve(Terminal())
        code = in_background(serve)
        if code:
            remove()
        return code


def _serve(settings: Settings, job: str, directory: str, front: Front) -> int:
    os.umask(0o077)  # of what we write; files in the mount have the mode that their programs ask for
    key = find_key(settings, front.say)
    logs.set_up(settings.log_level, key, settings.log_format)
    logs.keep_crashes()
    expected = preflight.check_server(settings, job, key, _load_parts)
    from jobfs import mount as mounting
    from jobfs.cli import graph
    from jobfs.vfs.descriptors import ask_for_more

    ask_for_more()
    place = slot.acquire(settings.state_dir, job, directory, settings.base_url)
    try:
        for warning in place.warnings:
            front.say(warning)
        front.keep_log(place.log)
        with registered(directory, place.path):
            return mounting.run(
                settings,
                place,
                lambda: graph.build(settings, job, place, key, expected),
                front.say,
                lambda: front.ready(f"mounted {job} at {directory}"),
            )
    finally:
        place.close()
        # What was counted and not told yet.
        logging.shutdown()


def _load_parts() -> None:
    """Import what starts threads or needs libfuse, which nothing above does."""
    from jobfs import mount
    from jobfs.cli import graph
    from jobfs.fuse import loop

    del loop, mount, graph
    # Most of what is made is either soon gone or stays for good, the tree above all: looking for cycles in it each time
    # it has grown a little takes a fifth of the time that reading it takes.
    gc.freeze()
    gc.set_threshold(*_CYCLES)
