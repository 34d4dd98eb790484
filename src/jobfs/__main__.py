"""The entry point: runs a command, and turns its outcome into one sentence and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from io import TextIOWrapper

import click

from jobfs.errors import JobfsError, UsageError

INTERRUPTED = 130
UNEXPECTED = 70


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: that of the command, 2 for bad input, 70 for an unexpected error.

    `arguments`: None for those of the process.
    """
    # Keep httpx from loading its own command line, and with it rich, which takes as long as all of httpx.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    _prepare_streams()
    try:
        return _run(arguments)
    finally:
        _discard_unwritten_output()


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from jobfs.cli import jobfs

        result = jobfs.main(arguments, prog_name="jobfs", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        asked = getattr(error, "ctx", None)
        more = f" See {asked.command_path} --help." if asked is not None else ""
        return _print_and_return(error.format_message() + more, error.exit_code)
    except JobfsError as error:
        return _print_and_return(str(error), 2 if isinstance(error, UsageError) else 1)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:
        return _report_unexpected(error)


def _prepare_streams() -> None:
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for as long as this runs
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as this runs
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks


def _discard_unwritten_output() -> None:
    """Discard buffered output that can't be written, because its reader is gone or a disk is full.

    Otherwise the interpreter would try again when it ends, fail, and exit with 120.
    """
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _report_unexpected(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, FileNotFoundError) and error.filename is None:  # raised by os.getcwd
        return _print_and_return("the directory you are in was removed: go to another one", 2)
    return _print_and_return(f"unexpected {type(error).__name__}: {error}{_save_traceback()}", UNEXPECTED)


def _print_and_return(message: str, code: int) -> int:
    from jobfs.cli.screen import print_escaped

    with contextlib.suppress(OSError):  # the exit code still shows the outcome
        print_escaped(f"jobfs: {' '.join(message.split())}", err=True)
    return code


def _save_traceback() -> str:
    """Write the traceback to a file that only the user can read; return a phrase with its path, "" if that fails."""
    trace = traceback.format_exc()
    try:
        handle, path = tempfile.mkstemp(prefix="jobfs-", suffix=".log")
        with os.fdopen(handle, "w") as file:
            file.write(trace)
    except OSError:  # the disk is full
        return ""
    return f"; details are in {path}"


if __name__ == "__main__":
    sys.exit(main())
