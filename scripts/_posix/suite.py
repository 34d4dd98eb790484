"""pjdfstest on a mount: several of its files at a time, each in a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from . import tap
from .expected import Difference, Expectation, compare, ranges

#: Seconds for one file; the longest sleeps for a minute and makes 3,000 calls.
_PATIENCE = 1200.0


@dataclass(frozen=True)
class Outcome:
    """What one file of pjdfstest reported, compared with what is expected."""

    name: str
    report: tap.Report
    difference: Difference

    @property
    def is_wrong(self) -> bool:
        """True if the list does not match."""
        return bool(self.report.problem or self.difference)

    def lines(self) -> Iterator[str]:
        """Describe the file, and each assertion for which the list does not match."""
        report, difference = self.report, self.difference
        if report.problem:
            yield f"{self.name}: {report.problem}"
            return
        known = len(report.failed) - len(difference.new)
        yield f"{self.name}: {report.planned} assertions" + f", {known} fail as expected" * bool(known)
        for number in sorted(difference.new):
            yield f"  NEW  {number}: {report.failed[number]}"
        for number in sorted(difference.gone):
            yield f"  GONE {number}: expected to fail, and does not"
        if difference:
            yield f"  the list would be  {self.name}: {ranges(report.failed) or '(no line)'}"


def find(copy: Path, beginnings: Sequence[str]) -> list[str]:
    """Return the names of the files to run, such as `tests/open/00.t`; all of them if no beginnings are given."""
    names = sorted(str(path.relative_to(copy)) for path in copy.glob("tests/*/*.t"))
    chosen = tuple(f"tests/{beginning}" for beginning in beginnings)
    return [name for name in names if not chosen or name.startswith(chosen)]


class Suite:
    """A built pjdfstest and the directory that it tests."""

    def __init__(self, copy: Path, directory: Path, environment: Mapping[str, str]) -> None:
        self._copy = copy
        self._directory = directory
        self._environment = environment
        self._running = set[subprocess.Popen[str]]()
        self._lock = Lock()
        self._stopped = False

    def run(
        self, names: Sequence[str], expected: Mapping[str, Expectation], jobs: int
    ) -> Generator[Outcome, None, None]:
        """Run the files, and yield each outcome as it comes; to close this kills whatever still runs."""
        with ThreadPoolExecutor(jobs) as pool:
            try:
                reports = {pool.submit(self._report, name): name for name in names}
                for future in as_completed(reports):
                    name, report = reports[future], future.result()
                    yield Outcome(name, report, compare(name, report.failed, expected))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()

    def _report(self, name: str) -> tap.Report:
        place = self._directory / name.removeprefix("tests/").removesuffix(".t").replace("/", "-")
        place.mkdir()
        with self._lock:
            if self._stopped:
                return tap.Report(problem="not run")
            process = subprocess.Popen(
                ["sh", str(self._copy / name)], cwd=place, env=self._environment, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            _kill(process)
            output, _ = process.communicate()
            return replace(tap.read(output.splitlines()), problem=f"not done within {_PATIENCE:.0f} s")
        finally:
            with self._lock:
                self._running.discard(process)
        return tap.read(output.splitlines())

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def summary(outcomes: Sequence[Outcome], unused: Sequence[str], seconds: float) -> str:
    """Add up the outcomes; `unused` are the names on the list that were not found."""
    assertions = sum(outcome.report.planned for outcome in outcomes)
    failed = sum(len(outcome.report.failed) for outcome in outcomes)
    new = sum(len(outcome.difference.new) for outcome in outcomes)
    gone = sum(len(outcome.difference.gone) for outcome in outcomes)
    problems = sum(bool(outcome.report.problem) for outcome in outcomes)
    parts = [
        f"{len(outcomes)} files, {assertions} assertions, {failed - new} fail as expected, {new} new, {gone} gone"
    ]
    parts += [f"{problems} files not comparable"] * bool(problems)
    parts += [f"on the list but not in the suite: {', '.join(unused)}"] * bool(unused)
    return f"pjdfstest: {'; '.join(parts)}; {seconds:.0f} s"
