"""The exerciser of a tree: several programs at once, each in names of its own and over shared ones; then the server's word."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.mounts import MountedJob
from tests.support.serverside import doubled, visible

from .worker import SHARED, SLOTS, label_of

_WORKER = Path(__file__).with_name("worker.py")


def exercise_tree(mounted: MountedJob, *, workers: int, operations: int, seed: int, timeout: float) -> None:
    """Let `workers` programs do `operations` each; AssertionError if one saw, or the server has, anything else than it must."""
    tree = Path(tempfile.mkdtemp(prefix=f"tree{seed}-", dir=mounted.path))
    (tree / SHARED).mkdir()
    running = [_start(tree, number, seed, operations) for number in range(workers)]
    ledgers = [_ended(process, timeout) for process in running]
    mounted.settled()
    problems = _problems(tree.name, ledgers, visible(mounted.server))
    problems += [f"{path}: two items" for path in doubled(mounted.server)]
    assert not problems, f"seed {seed}: " + "\n".join(problems)


def _start(tree: Path, number: int, seed: int, operations: int) -> subprocess.Popen[str]:
    words = [sys.executable, str(_WORKER), str(tree), *map(str, (number, seed, operations))]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _ended(process: subprocess.Popen[str], timeout: float) -> dict[str, Any]:
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"it does not end: {errors}") from None
    assert process.returncode == 0, errors
    return dict(json.loads(output))


def _problems(root: str, ledgers: list[dict[str, Any]], found: dict[str, bytes | None]) -> list[str]:
    """How the server's tree is not what the programs say that it must be."""
    right = {f"{root}/{path}": label for ledger in ledgers for path, label in ledger["own"].items()}
    directories = {f"{root}/{path}" for ledger in ledgers for path in ledger["directories"]}
    directories |= {root, f"{root}/{SHARED}"}
    slots = {f"{root}/{SHARED}/slot{number}" for number in range(SLOTS)}
    given = {label for ledger in ledgers for label in ledger["shared"]}
    problems = [f"{path}: not on the server" for path in (set(right) | directories) - set(found)]
    for path, data in found.items():
        if path != root and not path.startswith(f"{root}/"):
            continue
        if data is None:
            problems += [] if path in directories else [f"{path}: a directory that nobody made"]
            continue
        try:
            label = label_of(data)
        except ValueError as error:
            problems.append(f"{path}: {error}")
            continue
        if path in slots:
            problems += [] if label in given else [f"{path}: {label}, which nobody put there"]
        elif right.get(path) != label:
            problems.append(f"{path}: {label} instead of {right.get(path)}")
    return problems
