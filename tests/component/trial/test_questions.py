"""What a try says of servers that differ, refuse, fail or can't be relied on; and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobfs.api.access import fixed_key
from jobfs.api.client import Client
from jobfs.emulator import Server
from jobfs.emulator.workspace import Workspace
from jobfs.names import Role, hidden_path
from jobfs.nodes import Kind, Permission
from jobfs.state.server import ServerFacts
from jobfs.trial import questions
from jobfs.trial.questions import QUESTIONS, Row, Trial, clear, run


@contextmanager
def trying(server: Server, scratch: Path, timeout: float = 5.0, key: str = "") -> Iterator[Trial]:
    with Client(server.url, server.job, fixed_key(key or server.key), timeout=timeout) as client:
        yield Trial(client, scratch)


class Outcome(dict[str, Row]):
    """The rows of a whole try by name, and all facts in them."""

    @property
    def facts(self) -> dict[str, object]:
        return {name: value for row in self.values() for name, value in row.finding.facts.items()}

    def marked(self, mark: str) -> list[str]:
        return [name for name, row in self.items() if row.finding.verdict == mark]


Tried = Callable[..., Outcome]


@pytest.fixture
def tried(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tried:
    """A whole try of the server; everything is taken away afterwards."""
    monkeypatch.setattr(questions, "_TICK", 0.01)

    def tried(**more: Any) -> Outcome:
        with trying(server, tmp_path, **more) as trial:
            rows = [*run(trial), clear(trial)]
        return Outcome((row.name, row) for row in rows)

    return tried


@pytest.mark.parametrize(("switches", "costly", "facts"), [
    ({"move_touches": "no"}, [], ServerFacts(
        rejects=dict.fromkeys(Kind, True), moves_keep_updated_at=True, moves_carry=True, ranges=True,
    )),
    ({"find": "glob", "list_order": "unstable", "delete_body": "item"}, ["move"],
     ServerFacts(rejects=dict.fromkeys(Kind, True), moves_carry=True, ranges=True)),
    ({"create_existing": "overwrite", "sizes": "omitted", "path_style": "slash", "envelope": "item"},
     ["existing", "sizes", "move"],
     ServerFacts(rejects=dict.fromkeys(Kind, False), moves_carry=True, ranges=True)),
    ({"create_existing": "duplicate", "create_encodings": "json", "type_spelling": "short", "input_spelling": "own",
      "move_carries": False, "ranges": False, "read_only": "enforced", "name_form": "nfc"},
     ["create", "existing", "name_forms", "move", "tree", "ranges", "read_only"],
     ServerFacts(moves_carry=False, ranges=False)),
])  # fmt: skip
def test_a_try_finds_out_and_tells_what_a_server_does(
    server: Server, tried: Tried, switches: dict[str, Any], costly: list[str], facts: ServerFacts
) -> None:
    server.store.seed({"notes/a.md": "hello", **{f"more/{number}": "" for number in range(9)}})
    # What a mount has hidden is not taken for what a try has left.
    roles = [role for role in Role if role is not Role.TRIED]
    server.store.seed({hidden_path("a", "0" * 12, "0" * 16, role): "a" for role in roles}, age=4000)
    before = server.store.tree()
    server.set(**switches)
    outcome = tried()
    assert (outcome.marked("FAILED"), outcome.marked("WARN")) == ([], costly)
    assert ServerFacts(**outcome.facts) == facts  # type: ignore[arg-type]
    assert all(row.finding.meaning for row in outcome.values())
    assert server.store.tree() == before


def test_a_refused_key_ends_a_try_before_its_first_write(server: Server, tried: Tried) -> None:
    outcome = tried(key="another-key")
    assert list(outcome) == ["directory", "cleared"]
    assert "401" in outcome["directory"].finding.answered
    assert "PERSTACK_API_KEY" in outcome["directory"].finding.meaning
    assert server.store.tree() == {}


def test_a_directory_whose_answer_is_lost_is_taken_away(server: Server, tried: Tried) -> None:
    server.faults.next("drop_after", on="create")
    assert list(tried()) == ["directory", "cleared"]
    assert server.store.tree() == {}


def test_a_missing_answer_fails_its_own_question_only(server: Server, tried: Tried) -> None:
    server.faults.next("error_after", on="update", times=1, status=502)
    outcome = tried()
    assert outcome.marked("FAILED") == ["move"], "it has the first update"
    assert list(outcome) == [*(question.name for question in QUESTIONS), "cleared"]
    assert server.store.tree() == {}


def test_a_server_that_falls_silent_is_left_alone_and_a_later_try_removes_the_rest(
    server: Server, tmp_path: Path, tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trying(server, tmp_path, timeout=1.0) as trial:
        rows = []
        for row in run(trial):
            rows.append(row)
            if row.name == "seen":
                server.faults.rate("hang", 1.0)
        assert rows[-1].name == "move", "the second that is not answered"
        assert "a --try in ten minutes takes it away" in clear(trial).finding.meaning
    server.faults.clear()
    left = server.store.tree()
    tried()
    assert server.store.tree() == left != {}, "it may be under way"
    monkeypatch.setattr("jobfs.trial.questions.ABANDONED", 0.0)
    tried()
    assert server.store.tree() == {}


def test_items_that_can_not_be_deleted_are_told(server: Server, tried: Tried) -> None:
    server.faults.rate("error", 1.0, on="delete", status=403)
    assert {"delete", "cleared"} <= set(tried().marked("FAILED"))


def test_read_only_items_are_taken_away_too(server: Server, tmp_path: Path) -> None:
    server.set(read_only="enforced")
    with trying(server, tmp_path) as trial:
        trial.client.create_directory(trial.root, Permission.READ_WRITE)
        trial.file("left", permission=Permission.READ_ONLY)
        clear(trial)
    assert server.store.tree() == {}


def doubling(workspace: Workspace, item_id: str, path: Any, permission: Any, lifecycle: Any) -> Any:
    """An update that puts an item beside another."""
    item = workspace.get(item_id)
    changes = {"permission": permission or item.permission, "lifecycle": lifecycle or item.lifecycle}
    return workspace.move(item, path or item.path, **changes)


@pytest.mark.parametrize(("method", "replacement", "row"), [
    ("update", doubling, "taken"),
    ("find", lambda workspace, path: [], "seen"),
])  # fmt: skip
def test_a_server_on_which_saves_can_not_rely_is_named(
    server: Server, tried: Tried, monkeypatch: pytest.MonkeyPatch, method: str, replacement: Any, row: str
) -> None:
    monkeypatch.setattr(Workspace, method, replacement)
    outcome = tried()
    assert row in outcome.marked("FAILED")
    assert "--read-only" in outcome[row].finding.meaning


@pytest.mark.parametrize(("form", "words"), [
    ("nfc", "in NFD, as a Mac writes it"), ("lower", "with capitals"), ("trimmed", "with a blank at its end"),
])  # fmt: skip
def test_names_that_are_not_kept_are_told(server: Server, tried: Tried, form: str, words: str) -> None:
    server.set(name_form=form)
    outcome = tried()
    assert f"not one {words}" in outcome["name_forms"].finding.answered
    assert outcome.facts["rejects"] == {}, "nothing is to be made straight at its name (save/protocol.md R9)"


@pytest.mark.parametrize(("kind", "on", "row"), [
    ("wrong_length", "download", "download"), ("undone", "update", "move"),
])  # fmt: skip
def test_an_answer_that_is_wrong_fails_its_row(
    server: Server, tried: Tried, kind: Any, on: Any, row: str
) -> None:
    server.faults.rate(kind, 1.0, on=on, **({"by": -2} if kind == "wrong_length" else {}))
    outcome = tried(timeout=3.0)
    assert row in outcome.marked("FAILED")
    assert server.store.tree() == {}
