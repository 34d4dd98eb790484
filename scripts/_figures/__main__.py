"""The command line of the figures; see `scripts/figures`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from . import static

_ROOT = Path(__file__).parents[2]
#: Packages, and their lines: as they were, and the goal (src/jobfs/design.md). None: everything else.
_TRIAL, _TRIAL_COMMAND = ("trial",), "jobfs.cli.trial"
_SIZES: tuple[tuple[str, str, str, tuple[str, ...] | None], ...] = (
    ("fuse", "1,322", "1,000", ("fuse",)),
    ("vfs", "3,009", "2,000", ("vfs",)),
    ("save", "3,211", "2,100", ("save",)),
    ("state", "2,316", "1,700", ("state",)),
    ("content", "2,116", "1,400", ("content",)),
    ("namespace", "1,640", "1,200", ("namespace",)),
    ("api", "2,617", "1,900", ("api",)),
    ("trial, with its command", "1,773", "800", _TRIAL),
    ("cli, mount and the other top modules", "5,510", "4,200", None),
    ("the emulator", "3,473", "3,473", ("emulator",)),
)
_CPU = "scripts/bench stat --rtt 0 --peers none"


class Figure(NamedTuple):
    """A row of the table; `counted` names what was counted."""

    title: str
    before: str
    goal: str
    now: str
    counted: list[str]


class Measurements(NamedTuple):
    """The results of running a tree, and a sentence on what could not be measured."""

    crossings: Mapping[str, Any]
    cpu: Mapping[str, float]
    missing: str = ""


class _NotRunError(click.ClickException):
    """A program of the tree failed; `stderr` is what it wrote there."""

    def __init__(self, message: str, stderr: str) -> None:
        super().__init__(message)
        self.stderr = stderr


@click.command()
@click.option("--of", "revision", metavar="REV", help="Take them from another revision of this repository.")
@click.option("--list", "listed", is_flag=True, help="Name everything that was counted.")
@click.option(
    "--cpu", is_flag=True, help="Measure CPU too, which takes minutes and a machine with nothing else to do."
)
@click.option(
    "--static", "only_static", is_flag=True, help="Only what is read off the source; nothing is run."
)
def figures(revision: str | None, listed: bool, cpu: bool, only_static: bool) -> None:
    """Count how much a reader of the core must keep in mind, compared with the former figures and the goals."""
    measured = Measurements({}, {})
    with _tree(revision) as tree:
        if not only_static or cpu:
            measured = _measured(tree, revision, crossings=not only_static, cpu=cpu)
        rows = list(_rows(tree, measured.crossings, measured.cpu))
    console = Console()
    table = Table(
        "", "before", "goal", "now", title=f"figures of {revision or 'this tree'}", title_justify="left"
    )
    for row in rows:
        table.add_row(row.title, row.before, row.goal, row.now)
    console.print(table)
    if measured.missing:
        console.print(measured.missing, highlight=False, markup=False, soft_wrap=True)
    if not cpu:
        console.print(f"CPU: {_CPU}, or --cpu; it wants a machine with nothing else to do.", highlight=False)
    for row in rows if listed else ():
        console.print(f"\n{row.title}: {row.now}", highlight=False)
        for line in row.counted:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _measured(tree: Path, revision: str | None, *, crossings: bool, cpu: bool) -> Measurements:
    """Run a tree and measure it.

    Raises ClickException if this tree does not run; for another revision, the result has a sentence instead.
    """
    try:
        return Measurements(_crossings(tree) if crossings else {}, _cpu(tree) if cpu else {})
    except _NotRunError as error:
        if revision is None:
            print(error.stderr, file=sys.stderr)
            raise
        why = (error.stderr.strip() or error.message).splitlines()[-1]
        return Measurements(
            {}, {}, f"Only what is read off the source: {revision} does not run here ({why})."
        )


@contextmanager
def _tree(revision: str | None) -> Iterator[Path]:
    """Yield the directory of an unpacked revision; None: this working tree, with its changes."""
    if revision is None:
        yield _ROOT
        return
    packed = subprocess.run(["git", "archive", "--end-of-options", revision], cwd=_ROOT, capture_output=True)
    if packed.returncode:
        raise click.ClickException(f"git can't give {revision!r}: {packed.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="jobfs-figures-") as directory:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(directory, filter="data")
        yield Path(directory)


def _rows(tree: Path, crossed: Mapping[str, Any], cpu: Mapping[str, float]) -> Iterator[Figure]:
    found = static.modules(tree)
    ours = static.product(found)
    for title, before, goal, packages in _SIZES:
        if packages:
            part = [module for module in found if module.package in packages]
        else:
            elsewhere = {package for *_, named in _SIZES for package in named or ()}
            part = [module for module in ours if module.package not in elsewhere]
        if packages == _TRIAL:
            part += [module for module in ours if module.name.startswith(_TRIAL_COMMAND)]
        else:
            part = [module for module in part if not module.name.startswith(_TRIAL_COMMAND)]
        yield Figure(f"lines of {title}", before, goal, f"{static.lines(part):,}", [])
    size = static.lines(ours)
    yield Figure("lines of the product, without the emulator", "23,514", "16,300", f"{size:,}", [])
    yield Figure("lines of tests", "44,850", "30,000", f"{static.test_lines(tree):,}", [])
    for key, title, before, goal in (
        ("save", "write to the last DELETE: modules, functions", "36, 293", "26, 160"),
        ("open", "open for reading: modules, functions", "10, 29", "9, 22"),
        ("getattr", "getattr with find: modules, functions", "21, 101", "14, 60"),
    ):
        yield Figure(title, before, goal, *_counted(crossed.get(key)))
    known = static.things_to_know(ours)
    yield Figure(
        "things to know for the save path", "30", "20", str(sum(map(len, known.values()))),
        [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in known.items()],
    )  # fmt: skip
    for title, before, goal, places in (
        ("locks", "15", "12", static.locks(ours)),
        (
            "modules in import circles",
            "0",
            "0",
            [m for ring in static.circles(ours) for m in ring],
        ),
        ("callbacks planted in a lower layer", "0", "0", static.callbacks(ours)),
        ("functions of complexity over 10", "15", "15", static.complex_functions(ours)),
    ):
        yield Figure(title, before, goal, str(len(places)), places)
    yield Figure("journal: tables, columns", "4, 43", "4, 43", *_counted(crossed.get("journal")))
    yield Figure(
        "CPU of open, of getattr (x empty)", "5.1, 1.9", "<= 2.2, <= 1.3",
        ", ".join(f"{cpu[key]:.2f}" for key in ("open", "getattr")) if cpu else "-", [],
    )  # fmt: skip


def _counted(parts: Mapping[str, list[str]] | None) -> tuple[str, list[str]]:
    """Return the number of groups and of all their members, and their names."""
    if parts is None:
        return "-", []
    return (
        f"{len(parts)}, {sum(map(len, parts.values()))}",
        [f"{name}: {', '.join(inside)}" for name, inside in sorted(parts.items())],
    )


def _crossings(tree: Path) -> dict[str, Any]:
    """Return the results of crossings.py, run in a process of its own with the modules and test helpers of that tree."""
    # With `-m`, the working directory is first on the path.
    done = _python(tree, "-m", "_figures.crossings", scripts=_ROOT / "scripts")
    found: dict[str, Any] = json.loads(done)
    return found


def _cpu(tree: Path) -> dict[str, float]:
    """Return the CPU of `open` (with read and close) and `getattr`, as multiples of the empty file system's in the same run."""
    with tempfile.TemporaryDirectory(prefix="jobfs-figures-") as directory:
        file = Path(directory) / "bench.json"
        arguments = ("stat", "--rtt", "0", "--peers", "none", "--json", str(file))
        _python(tree, "-m", "_bench", *arguments, scripts=tree / "scripts")
        rows = {row["row"]: row["systems"] for row in json.loads(file.read_text())["rows"]}
    ratios = {}
    for key in ("open", "getattr"):
        systems = rows.get(key, {})
        if not {"jobfs", "floor"} <= systems.keys():
            told = f"the bench did not measure {key} of jobfs and of the empty file system; run {_CPU}"
            raise _NotRunError(told, "")
        ratios[key] = systems["jobfs"]["median"] / systems["floor"]["median"]
    return ratios


def _python(tree: Path, *arguments: str, scripts: Path) -> str:
    """Run Python in that tree, and return its output. Raises _NotRunError if it fails."""
    path = os.pathsep.join(map(str, (tree / "src", tree, scripts)))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        told = f"python {' '.join(arguments)} failed; see above, or leave it out with --static"
        raise _NotRunError(told, done.stderr)
    return done.stdout


if __name__ == "__main__":
    figures(prog_name="scripts/figures")
