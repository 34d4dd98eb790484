"""The load suite is fed what it is to report: a bound that is passed, a lost file, a wrong read, an item too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.stress.load.bounds import Bounds, Sample, standing
from tests.stress.load.calls import RefusedError
from tests.stress.load.stage import Stage, Workload
from tests.stress.load.weather import User, seen_by
from tests.support.forks import ForkServer

from jobfs.names import Role, hidden_path, new_transaction_id

MB = 10**6

#: What of the highest sample, or of the one at rest, is one too many; and the bound that is broken.
LEAKS: list[tuple[str, dict[str, Any], str]] = [
    ("peak", {"descriptors": 301}, "descriptors at peak"),
    ("rest", {"descriptors": 301}, "descriptors at rest"),
    ("peak", {"threads": 101}, "threads at peak"),
    ("peak", {"memory": 160 * MB}, "MB of memory more than at the start"),
    ("peak", {"hidden": 65}, "hidden items at peak"), ("rest", {"hidden": 1}, "hidden items at rest"),
    ("peak", {"conflicts": 1}, "conflict copies"), ("rest", {"unsent": 1}, "unsent rows at rest"),
    ("rest", {"local_bytes": 1}, "local bytes at rest"),
    ("rest", {"tables": Counter(change=221)}, "rows of change at rest"),
]  # fmt: skip


@pytest.mark.parametrize(("when", "more", "broken"), LEAKS, ids=[broken for _, _, broken in LEAKS])
def test_a_leak_breaks_its_bound_and_no_other(when: str, more: dict[str, Any], broken: str) -> None:
    """vfs/semantics.md 6.15: as 120 files were written, in 200 saves."""
    start, works = Sample(memory=80 * MB), Sample(300, 100, 80 * MB, hidden=64)
    ends = Sample(300, 60, 80 * MB, tables=Counter(tombstone=220))
    assert [check for check in standing(works, ends, start, 120, Bounds(files=120)) if not check.held] == []
    works, ends = (replace(works, **more), ends) if when == "peak" else (works, replace(ends, **more))
    checks = standing(works, ends, start, 120, Bounds(files=120))
    assert [check.what for check in checks if not check.held] == [broken]


@pytest.fixture
def stage(forks: ForkServer, tmp_path: Path) -> Iterator[Stage]:
    """Nothing runs, and nothing is mounted: users find a directory of this disk."""
    with Stage(Workload("planted", lambda stage: None, 60), forks, tmp_path / "stage", pause=1) as stage:
        yield stage


def test_hidden_lost_and_duplicate_items_on_the_server_are_noticed(stage: Stage) -> None:
    left = hidden_path("file", "a" * 12, new_transaction_id(), Role.ASIDE)
    stage.expected.put_all({"file": b"mine", "gone": b"lost"})
    stage.server.store.seed({left: b"x", "file": b"mine", "file.conflict-20261130T042204Z": b"old"})
    sample = stage.sampler.take()
    assert (sample.hidden, sample.conflicts) == (1, 1)
    assert (stage.sampler.peak.hidden, Sample(hidden=2).highest(sample).hidden) == (1, 2)
    stage.compare()
    broken = [check.what for check in stage.row.broken]
    assert broken == ["paths that differ from what was written", "contents that are nowhere"]


#: What a program reads at a name, and which bound of bad weather that breaks.
READS: dict[str, tuple[Callable[[bytes], bytes | None], list[str]]] = {
    "what was saved": (lambda saved: saved, []),
    "half of it": (lambda saved: saved[: len(saved) // 2], ["reads of what nobody wrote"]),
    "its first version": (lambda saved: b"at first", ["reads of what nobody wrote"]),
    "bytes of another": (lambda saved: b"another", ["reads of what nobody wrote"]),
    "nothing, again and again": (lambda saved: None, ["looks at a name that a late request changed"]),
}


@pytest.mark.parametrize(("there", "broken"), READS.values(), ids=READS)
def test_a_simulated_user_under_faults_reports_wrong_reads(
    stage: Stage, there: Callable[[bytes], bytes | None], broken: list[str]
) -> None:
    (stage.path / "u0").mkdir()
    stage.expected.put("u0/f00", b"at first")
    user = User(stage, "u0")
    user.save("u0/f00", b"saved", sync=True)
    path = stage.path / "u0/f00"
    data = there(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    for _ in range(2):
        with suppress(RefusedError):
            user.look("u0/f00")
    assert [check.what for check in seen_by([user], 1) if not check.held] == broken
