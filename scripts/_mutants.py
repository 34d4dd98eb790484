"""`scripts/mutants`: run mutmut on a copy of this tree, with a sample of its mutants and a limit on the tests per mutant."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from mutmut import __main__ as mutmut
from mutmut.core import MutmutCallStack
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.workers import isolation, timeout

_ROOT = Path(__file__).parents[1]
#: The copy. It is kept, so that a second run reuses what mutmut knows of the tests.
_COPY = _ROOT / "build" / "mutants"
#: Exit codes of pytest under a mutant: no test failed; no test reaches that line; the types are wrong. Any other code is a find.
_SURVIVED, _UNTESTED, _ILL_TYPED = 0, 33, 37


def _copy() -> None:
    """Copy the files that git lists in this tree."""
    _COPY.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=_ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        target = _COPY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(_ROOT / name, target)


def _stop(pid: int, number: int) -> None:
    """Send a signal to a child. If the child has been reaped, another process may have its pid, and no signal is sent."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.kill(pid, number)


def _patch(sample: int, seed: int, seconds: float) -> set[str]:
    """Patch mutmut to take a sample, to run the quickest tests of each mutant first, and to work with threads.

    Return a set that gets the names of the sample's mutants.
    """
    tool: Any = mutmut
    everything = tool.collect_source_file_mutation_data
    regular = PytestRunner._pytest_args_regular_run
    patch = pytest.MonkeyPatch()
    chosen = set[str]()

    def sampled(*, mutant_names: Any) -> Any:
        mutants, data = everything(mutant_names=mutant_names)
        # Chosen by name: when one function changes, the other functions' mutants stay in the sample or out of it.
        mutants.sort(key=lambda mutant: hashlib.sha256(f"{seed} {mutant[1]}".encode()).digest())
        chosen.update(name for _, name, _ in mutants[:sample])
        return mutants[:sample], data

    def quickest(runner: PytestRunner, tests: Any) -> list[str]:
        took = {test: state().duration_by_test.get(test, 0.0) for test in tests}
        first, left = [], seconds
        for test in sorted(took, key=took.__getitem__):
            first.append(test)
            left -= took[test]
            if left < 0:
                break
        return regular(runner, first)

    patch.setattr(tool, "collect_source_file_mutation_data", sampled)
    patch.setattr(PytestRunner, "_pytest_args_regular_run", quickest)
    # The tests passed just before, when mutmut recorded which tests reach which lines.
    patch.setattr(isolation.ForkRunner, "run_clean_tests", lambda runner, tests: 0)
    patch.setattr(timeout, "os", SimpleNamespace(kill=_stop, getpid=os.getpid))

    def bounded(*, pid: int, timeout_s: float) -> None:
        # mutmut's time limit is for all tests that reach a line; a mutant that hangs would use all of that time.
        timeout.register_timeout(pid, min(timeout_s, 10 * seconds))

    patch.setattr(isolation, "register_timeout", bounded)
    # With contexts of threads that outlive a test, mutmut's call stack crashes with a segmentation fault; only lines that run at
    # import need it.
    for name, answer in (("get", (None, 0)), ("set", None), ("reset", None)):
        patch.setattr(MutmutCallStack, name, lambda *_, answer=answer: answer)
    return chosen


@click.command()
@click.argument("packages", nargs=-1)
@click.option("--sample", default=1500, show_default=True, help="How many mutants are tried.")
@click.option("--seed", default=1, show_default=True, help="Another sample for each number.")
@click.option(
    "--seconds", default=15.0, show_default=True, help="Tests that a mutant meets, the quickest first."
)
def main(packages: tuple[str, ...], sample: int, seed: int, seconds: float) -> None:
    """Plant faults in these packages of jobfs, or in all, and print those that no test finds."""
    tool: Any = mutmut
    _copy()
    os.chdir(_COPY)
    chosen = _patch(sample, seed, seconds)
    tool._run([f"jobfs.{package}.*" for package in packages] or ["*"], os.cpu_count())
    found, missed = Counter[tuple[str, bool]](), list[str]()
    for path in tool.walk_mutatable_files():
        data = tool.SourceFileMutationData(path=path)
        data.load()
        for name, code in data.exit_code_by_key.items():
            if name not in chosen or code is None or code == _ILL_TYPED:
                continue
            package = Path(path).parent.name
            found[package, code in (_SURVIVED, _UNTESTED)] += 1
            missed += [name] * (code in (_SURVIVED, _UNTESTED))
    for name in sorted(missed):
        click.echo(f"missed: {name}")
    for package in sorted({package for package, _ in found}):
        killed, left = found[package, False], found[package, True]
        click.echo(f"{package:10} {killed + left:5} mutants, {killed / (killed + left):6.1%} found")


if __name__ == "__main__":
    main()
