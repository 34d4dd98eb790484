"""`jobfs watch`, against mounts that tell; what of two statuses is a change."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobfs.document import events_between, make_event

from .world import Make, Outcome, Run, a_status, unsent

CONFLICT = {"path": "a.conflict-1", "origin": "a", "reason": "changed", "diff": None, "merge": None}


def telling(mount: str, **news: Any) -> Callable[..., Any]:
    """Tells one change, and that it is unmounted."""
    told = make_event(a_status(directory=mount), **news)  # type: ignore[arg-type]
    return lambda args, conversation: conversation.send_event({**told, "time": 0.0})


@pytest.fixture
def _in_another_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """3:30 h ahead of UTC, for this process, until the test ends."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-03:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_in_another_zone")
def test_a_change_is_a_line_with_its_time(run: Run, answering: Make) -> None:
    one = answering("/mnt/a", watch=telling("/mnt/a", what="renamed", path="dir/new", old="old", size=1500))
    line = "03:30:00  renamed   old -> dir/new  1.5KiB\n"
    assert run("watch", "/mnt/a/dir") == Outcome(1, line, "jobfs: /mnt/a is unmounted\n")
    assert one.calls == [("watch", {"path": "dir"})]
    (told,) = run("watch", "--json").out.splitlines()
    assert json.loads(told) == {
        "time": 0.0, "mount": "/mnt/a", "what": "renamed", "path": "dir/new", "old": "old", "directory": False,
        "size": 1500, "reason": None, "job": None,
    }  # fmt: skip
    answering("/mnt/b", watch=telling("/mnt/b", what="created", path="empty", size=0))
    assert run("watch", "/mnt/b").out == "03:30:00  created   empty  0B\n"


def test_lines_name_their_mount_and_the_end_of_one_ends_no_other(run: Run, answering: Make) -> None:
    answering("/mnt/a", watch=telling("/mnt/a", what="created", path="dir", directory=True))
    answering("/mnt/b", watch=telling("/mnt/b", what="job", job=a_status()["job"]))
    done = run("watch")
    assert (done.code, len(done.err.splitlines())) == (1, 2)
    job = "job       /mnt/b  processing, step 3 of 12, claude-opus-4-5, 12,345 tokens"
    assert sorted(line[10:] for line in done.out.splitlines()) == ["created   /mnt/a/dir/", job]
    assert run("watch", "/mnt/none").code == 2


ENDED = {"job": {**a_status()["job"], "status": "completed", "ended": True}}


@pytest.mark.parametrize(("before", "now", "told"), [
    (None, {"failed": [unsent()], "conflicts": [CONFLICT], "listing_error": "down"}, [("job", None)]),
    ({}, {"job": {**a_status()["job"], "tokens": 5, "age": 4.0}, "items": 58}, []),
    ({}, {"job": {**a_status()["job"], "current_step": 4}}, [("job", None)]),
    (ENDED, {}, [("job", "continued")]),
    ({}, ENDED, [("job", None)]),
    (ENDED, {"job": {**ENDED["job"], "status": "failed"}}, [("job", None)]),
    (ENDED, {"job": {**ENDED["job"], "status": None, "ended": None}}, [("job", None)]),
    ({}, {"listing_error": "down"}, [("server", "down")]),
    ({"listing_error": "down"}, {"listing_error": "slow"}, []),
    ({"listing_error": "down"}, {}, [("server", "answers again")]),
    ({}, {"failed": [unsent(reason="full")]}, [("failed", "full")]),
    ({"failed": [unsent()]}, {"failed": [unsent(), unsent(path="b")]}, [("failed", "")]),
    ({"conflicts": [CONFLICT]}, {"conflicts": [CONFLICT]}, []),
    ({}, {"conflicts": [CONFLICT]}, [("conflict", "changed")]),
])  # fmt: skip
def test_a_watch_shows_the_changed_parts_of_a_status(before: Any, now: Any, told: list[Any]) -> None:
    """vfs/semantics.md 7.8."""
    older: Any = before if before is None else a_status(**before)
    newer: Any = a_status(**now)
    assert [(each["what"], each["reason"]) for each in events_between(older, newer)] == told
