"""`jobfs mount JOB DIR`: check everything, then serve in the foreground or in the background.

A mount in the background prints its messages on the terminal until it is ready; after that it logs them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jobfs import process
from jobfs.cli import logs, preflight
from jobfs.cli.options import complete_directories, reject_empty, setting_options
from jobfs.cli.screen import print_escaped
from jobfs.errors import JobfsError, UsageError
from jobfs.settings import Settings, load_settings
from jobfs.state import directory as directories

#: The exit code after an unexpected error.
_UNEXPECTED = 70
#: The thresholds of Python's garbage collector: of the youngest generation, and of the two older ones.
_CYCLES = (20_000, 20, 50)

#: Reports that the mount is ready, and where its log is. Raises BrokenPipeError if the process that waits for this has gone.
Ready = Callable[[str, Path], None]

#: The settings that `--help` shows.
MAIN = (
    "base_url", "api_key_file", "cache_size", "state_dir", "ttl", "sync_on_close", "read_only", "timeout", "local_only",
    "mount_options",
)  # fmt: skip
_EPILOG = (
    "Each setting is also a variable (JOBFS_TTL) and a mount option (-o ttl=2). "
    "After `jobfs install-helper`, mount(8) and /etc/fstab mount jobs too."
)


@click.command("mount", epilog=_EPILOG)
@click.argument("job")
@click.argument("directory", callback=reject_empty, metavar="DIR", shell_complete=complete_directories)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; Ctrl-C unmounts.")
@setting_options(*MAIN)
def mount(job: str, directory: str, foreground: bool, mount_options: tuple[str, ...], **flags: Any) -> int:
    """Mount the workspace of JOB at DIR, an empty or new directory.

    Returns once the mount answers. The mount runs until `jobfs umount`.
    """
    settings = load_settings(flags, mount_options)
    made = not os.path.lexists(directory)
    with contextlib.suppress(OSError):  # the checks report why
        os.mkdir(directory)
    failed = True
    try:
        place = preflight.check_machine(settings, job, directory, logs.warn_user)

        def serve(ready: Ready) -> int:
            return _serve(settings, job, place, ready)

        code = serve(lambda text, log: print_escaped(text)) if foreground else run_in_background(serve)
        # In the foreground, 1 is the code of a mount that has ended with unsent files.
        failed = code != 0 and not foreground
        return code
    finally:
        if made and failed:
            with contextlib.suppress(OSError):
                os.rmdir(directory)


def _serve(settings: Settings, job: str, directory: str, ready: Ready) -> int:
    os.umask(0o077)  # for jobfs's own files; files in the mount get the mode that their programs ask for
    key = preflight.find_key(settings)
    logs.set_up_logging(settings.log_level, key, settings.log_format)
    logs.log_thread_crashes()
    expected = preflight.check_server_and_count_items(settings, job, key, _import_parts)
    from jobfs import mount as mounting
    from jobfs.cli import graph
    from jobfs.vfs.core import raise_descriptor_limit

    # Most objects either die young or live as long as the mount, above all those of the tree. Collecting whenever the tree has
    # grown a little takes a fifth of the time that reading the tree takes.
    gc.freeze()
    gc.set_threshold(*_CYCLES)
    process.limit_arenas()
    raise_descriptor_limit()
    place = directories.acquire_state_directory(
        settings.state_dir, job, directory, settings.base_url, settings.api_key_file
    )
    try:
        return mounting.run_mount(
            settings,
            place,
            lambda: graph.build_mount(settings, job, place, key, expected),
            logs.warn_user,
            lambda: ready(f"mounted {job} at {directory}", place.log_path),
        )
    finally:
        place.close()


def run_in_background(serve: Callable[[Ready], int]) -> int:
    """Run `serve` in a new process with its own session. Return 0 once it is ready, or its exit code if it has failed.

    Until then the process prints its messages here; after that it logs them. Call this before any thread is started: only the
    calling thread survives the fork.
    """

    def ready(text: str, log: Path) -> None:
        has_file = logs.log_to_file(log)
        os.write(write_end, (f"{text}; its log is {log}" if has_file else text).encode())
        os.close(write_end)

    read_end, write_end = os.pipe()
    child = os.fork()
    if child:
        os.close(write_end)
        return _wait_for_child(read_end, child)
    os.close(read_end)
    # Close the caller's other files: a mount must not hold its lock, or a file of it in another mount.
    os.closerange(3, write_end)
    os.closerange(write_end + 1, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    code = _UNEXPECTED
    try:
        code = serve(ready)
    except JobfsError as error:
        code = 2 if isinstance(error, UsageError) else 1
        logs.warn_user(str(error))
    except Exception as error:
        logs.warn_user(f"unexpected {type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _wait_for_child(read_end: int, child: int) -> int:
    """Wait until the mount is ready, or has ended and printed why. Raises JobfsError if it ended without a message."""
    try:
        with os.fdopen(read_end, "rb") as pipe:
            ready = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise
    if ready:
        print_escaped(ready.decode())
        return 0
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (1, 2, _UNEXPECTED):
        raise JobfsError("the mount ended before it answered: try --foreground to see why")
    return code


def _import_parts() -> None:
    """Import the modules that start threads or need libfuse; the modules imported at the top do neither."""
    from jobfs import mount
    from jobfs.cli import graph
    from jobfs.fuse import loop

    del loop, mount, graph
