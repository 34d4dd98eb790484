"""The command line of the suites; see `scripts/posix`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import click

from _bench.lab import ENDING, Lab, NotMeasured

from . import expected, fsx, suite
from .sources import (
    NotRunnableError,
    build_fsx,
    build_pjdfstest,
    find_fsx,
    is_built,
    require_pjdfstest,
    require_programs,
)
from .stage import Stage, require_mount

_LIST = Path(__file__).with_name("expected.txt")


@click.command()
@click.argument("pjdfstest", type=click.Path(path_type=Path), required=False, metavar="[DIR_OF_PJDFSTEST]")
@click.option("--only", multiple=True, metavar="BEGINNING", help="Only files of such names: open, rename/09.")
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at a time.")
@click.option(
    "--fsx",
    "fsx_source",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="Build fsx, and run it too.",
)
@click.option("--seeds", type=click.IntRange(1, 99), default=3, show_default=True, help="Runs of fsx.")
def posix(
    pjdfstest: Path | None, only: tuple[str, ...], jobs: int, fsx_source: Path | None, seeds: int
) -> None:
    """Run pjdfstest and fsx on a mount of a local server.

    Exit code 1 if an assertion fails that is not on the list of expected failures, or one on the list passes, or fsx
    found something; 2 if they can't be run; 130 after Ctrl-C.
    """
    if pjdfstest is None and fsx_source is None:
        raise click.UsageError("give the directory of pjdfstest, or --fsx, or both")
    for number in ENDING:
        # A signal that only ends Python would leave what was mounted.
        signal.signal(number, signal.default_int_handler)
    os.umask(0o022)  # other users reach the mount and what is built
    try:
        _require(pjdfstest, fsx_source)
        with Lab("posix") as lab:
            held = pjdfstest is None or _run_pjdfstest(pjdfstest, only, jobs, lab)
            held &= fsx_source is None or _run_fsx(fsx_source, seeds, lab)
    except NotRunnableError as error:
        click.echo(f"posix: {error}", err=True)
        sys.exit(2)
    except (NotMeasured, RuntimeError) as error:
        click.echo(f"posix: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(not held)


def _require(pjdfstest: Path | None, fsx_source: Path | None) -> None:
    """Raise NotRunnableError for whatever is missing, before anything is started."""
    programs = []
    if pjdfstest is not None:
        require_pjdfstest(pjdfstest)
        programs += ["openssl"] + ["cc"] * (not is_built(pjdfstest))
    if fsx_source is not None:
        find_fsx(fsx_source)
        programs.append("cc")
    require_programs(programs)
    require_mount(os.getuid())


def _run_pjdfstest(source: Path, only: Sequence[str], jobs: int, lab: Lab) -> bool:
    """Run pjdfstest, and print what differs from the list; True if nothing does."""
    known = expected.parse(_LIST.read_text())
    copy = build_pjdfstest(source, lab.fresh("pjdfstest"))
    names = suite.find(copy, only)
    if not names:
        raise NotRunnableError(f"{source} has no test whose name begins with {' or '.join(only) or 'tests/'}")
    began, outcomes = time.monotonic(), list[suite.Outcome]()
    with ExitStack() as stack:
        directory = stack.enter_context(Stage(lab).mount())
        run = suite.Suite(copy, directory, lab.environment()).run(names, known, jobs)
        for outcome in stack.enter_context(closing(run)):
            outcomes.append(outcome)
            click.echo("\n".join(outcome.lines()))
    unused = [] if only else sorted(set(known) - set(names))
    click.echo(suite.summary(outcomes, unused, time.monotonic() - began))
    return not unused and not any(outcome.is_wrong for outcome in outcomes)


def _run_fsx(source: Path, seeds: int, lab: Lab) -> bool:
    """Run fsx with seeds from 1, and print what each found; True if it was nothing."""
    program = build_fsx(find_fsx(source), lab.fresh("fsx"))
    stage, began, failed = Stage(lab), time.monotonic(), 0
    for seed in range(1, seeds + 1):
        wrong = fsx.run(program, stage, seed, lab.fresh("notes"), lab.environment())
        failed += bool(wrong)
        click.echo(f"fsx, seed {seed}: {wrong or 'all operations, and a second mount reads the same bytes'}")
    click.echo(f"fsx: {seeds} seeds, {failed} failed; {time.monotonic() - began:.0f} s")
    return not failed


if __name__ == "__main__":
    posix(prog_name="scripts/posix")
