"""Servers that refuse, fail or are silent: one clear row, nothing left behind; and servers that can't be relied on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobfs.emulator import Server
from jobfs.emulator.workspace import Workspace
from jobfs.names import Role, hidden_path
from jobfs.trial import QUESTIONS, Verdict, clear, run

from .conftest import OWN, Outcome, trying

Tried = Callable[..., Outcome]


def changes(server: Server) -> list[str]:
    return [entry.operation for entry in server.log.changes()]


def test_a_refused_key_ends_it_before_anything_is_written(server: Server, tried: Tried) -> None:
    outcome = tried(key="another-key")
    assert list(outcome) == ["job"]
    assert outcome["job"].finding.verdict is Verdict.BAD
    assert "401" in outcome["job"].finding.answered
    assert "PERSTACK_API_KEY" in outcome["job"].finding.meaning
    assert changes(server) == []


@pytest.mark.parametrize(("fault", "verdict", "told"), [
    ({"kind": "error", "status": 404}, Verdict.BAD, "404"),
    ({"kind": "error", "status": 403}, Verdict.BAD, "403"),
    ({"kind": "unavailable"}, Verdict.NO_ANSWER, "503"),
    ({"kind": "gateway", "status": 502}, Verdict.NO_ANSWER, "502"),
    ({"kind": "silent"}, Verdict.NO_ANSWER, "no answer in time"),
    ({"kind": "drop"}, Verdict.NO_ANSWER, "the connection broke"),
])  # fmt: skip
def test_a_server_that_does_not_answer_the_first_question_is_asked_no_other(
    server: Server, tried: Tried, fault: dict[str, Any], verdict: Verdict, told: str
) -> None:
    server.faults.rate(rate=1.0, **fault)
    outcome = tried(timeout=2.0)
    assert [(row.name, row.finding.verdict) for row in outcome.values()] == [("job", verdict)]
    assert told in outcome["job"].finding.answered
    assert changes(server) == []


def test_a_key_that_may_only_read_is_told(server: Server, tried: Tried) -> None:
    server.faults.rate("error", 1.0, on="change", status=403, reason="Read only")
    outcome = tried()
    assert list(outcome) == ["job", "left_before", "directory", "cleared"]
    assert outcome["directory"].finding.verdict is Verdict.BAD
    assert outcome["cleared"].well
    assert server.store.tree() == {}


def test_a_directory_whose_answer_is_lost_is_taken_away(server: Server, tried: Tried) -> None:
    server.faults.next("drop_after", on="create")
    outcome = tried()
    assert outcome["directory"].finding.verdict is Verdict.NO_ANSWER
    assert list(outcome)[-2:] == ["directory", "cleared"]
    assert server.store.tree() == {}


def test_one_answer_that_does_not_come_is_one_row(server: Server, tried: Tried) -> None:
    server.faults.next("error_after", on="update", times=1, status=502)
    outcome = tried()
    missing = [name for name, row in outcome.items() if row.finding.verdict is Verdict.NO_ANSWER]
    assert missing == ["order"], "it has the first update"
    assert list(outcome) == [*(question.name for question in QUESTIONS), "cleared"]
    assert server.store.tree() == {}


def test_a_file_that_is_refused_fails_its_own_question_only(server: Server, tried: Tried) -> None:
    server.faults.rate("error", 1.0, on="create", path="*/bytes", status=413)
    outcome = tried()
    assert outcome["download"].finding.verdict is Verdict.BAD
    assert outcome["by_range"].well
    assert server.store.tree() == {}


def test_a_server_that_falls_silent_is_left_alone_and_the_next_try_takes_away_what_was_left(
    server: Server, tmp_path: Path, tried: Tried
) -> None:
    before = {"notes": None, "notes/a.md": b"hello"}
    server.store.seed({"notes/a.md": "hello"})
    with trying(server, tmp_path, timeout=2.0) as trial:
        rows = []
        for row in run(trial):
            rows.append(row)
            if row.name == "at_once":
                server.faults.rate("hang", 1.0)
        assert [row.finding.verdict for row in rows[-2:]] == [Verdict.NO_ANSWER] * 2
        assert rows[-1].name == "pages"
        cleared = clear(trial)
        assert cleared is not None
        assert not cleared.well
        assert "--try` takes it away" in cleared.finding.meaning
    assert server.store.tree() != before

    server.faults.clear()
    again = tried()
    assert re.fullmatch(r"\d+ items, taken away", again["left_before"].finding.answered)
    assert server.store.tree() == before


def test_what_another_machine_has_left_is_taken_away_after_an_hour_only(server: Server, tried: Tried) -> None:
    young = hidden_path("try", "f" * 12, "0" * 16, Role.TRIED)
    old = hidden_path("try", "e" * 12, "0" * 16, Role.TRIED)
    server.store.seed({f"{young}/a": "a"})
    server.store.seed({f"{old}/a": "a"}, age=4000)
    tried()
    assert set(server.store.tree()) == {young, f"{young}/a"}


def test_a_save_of_a_mount_is_not_taken_for_one_of_a_try(server: Server, tried: Tried) -> None:
    server.store.seed({hidden_path("a", OWN, "0" * 16, role): "a" for role in Role if role is not Role.TRIED})
    before = server.store.tree()
    assert tried()["left_before"].finding.answered == "nothing"
    assert server.store.tree() == before


def test_items_that_can_not_be_deleted_are_told(server: Server, tried: Tried) -> None:
    server.faults.rate("error", 1.0, on="delete", status=403)
    outcome = tried()
    assert outcome["delete"].finding.verdict is Verdict.BAD
    assert not outcome["cleared"].well
    server.faults.clear()
    assert tried()["left_before"].well
    assert server.store.tree() == {}


def test_what_is_in_a_directory_goes_one_by_one_where_its_delete_leaves_it(
    server: Server, tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete(workspace: Workspace, item_id: str) -> Any:
        item = workspace.get(item_id)
        workspace.apply(drops=[item])
        return item

    monkeypatch.setattr(Workspace, "delete", delete)
    outcome = tried()
    assert outcome["delete_directory"].finding.answered == "what is in it stays"
    assert outcome["cleared"].well
    assert server.store.tree() == {}


def covering(workspace: Workspace, item_id: str, path: Any, permission: Any, lifecycle: Any) -> Any:
    """An update that lets an item take the place of another."""
    item = workspace.get(item_id)
    target = item.path if path is None else path
    workspace.apply(drops=[other for other in workspace.index.at(target) if other.id != item_id])
    changes = {"permission": permission or item.permission, "lifecycle": lifecycle or item.lifecycle}
    return workspace.move(item, target, **changes)


def doubling(workspace: Workspace, item_id: str, path: Any, permission: Any, lifecycle: Any) -> Any:
    """An update that puts an item beside another."""
    item = workspace.get(item_id)
    changes = {"permission": permission or item.permission, "lifecycle": lifecycle or item.lifecycle}
    return workspace.move(item, item.path if path is None else path, **changes)


def copying(workspace: Workspace, item_id: str, path: Any, permission: Any, lifecycle: Any) -> Any:
    """An update that leaves the item where it is, and answers with another."""
    item = workspace.get(item_id)
    return workspace.create(item.kind, path, item.permission) if path else item


@pytest.mark.parametrize(("method", "replacement", "row"), [
    ("update", covering, "to_taken_path"),
    ("update", doubling, "to_taken_path"),
    ("update", copying, "to_free_path"),
    ("find", lambda workspace, path: [], "at_once"),
])  # fmt: skip
def test_a_server_that_saves_can_not_rely_on_is_named(
    server: Server, tried: Tried, monkeypatch: pytest.MonkeyPatch, method: str, replacement: Any, row: str
) -> None:
    monkeypatch.setattr(Workspace, method, replacement)
    outcome = tried()
    assert outcome[row].finding.verdict is Verdict.BAD
    assert outcome[row].finding.meaning


def test_updates_that_are_answered_and_not_done_are_told(server: Server, tried: Tried) -> None:
    server.faults.rate("undone", 1.0, on="update")
    finding = tried()["to_free_path"].finding
    assert finding.verdict is Verdict.BAD
    assert "does not match the API reference" in finding.answered
    assert "--read-only" in finding.meaning
    assert server.store.tree() == {}


@pytest.mark.parametrize("form", ["nfc", "lower", "trimmed"])
def test_names_that_are_not_kept_are_told_with_the_remedy(server: Server, tried: Tried, form: str) -> None:
    server.set(name_form=form)
    finding = tried()["name_forms"].finding
    words = {
        "nfc": "not one in NFD, as a Mac writes it",
        "lower": "not one with capitals",
        "trimmed": "blank at its end",
    }
    assert words[form] in finding.answered
    assert "give them other names" in finding.meaning
    assert finding.verdict is (Verdict.BAD if form == "lower" else Verdict.COPES)


def test_names_that_are_refused_are_told(server: Server, tried: Tried) -> None:
    server.faults.rate("error", 1.0, on="create", path="*/blank ", status=400, reason="Invalid path")
    finding = tried()["name_forms"].finding
    assert (finding.answered, finding.facts) == ("not one with a blank at its end", {"name_form": "trimmed"})


@pytest.mark.parametrize("on", ["download", "create"])
def test_an_answer_that_is_broken_is_a_row(server: Server, tried: Tried, on: str) -> None:
    server.faults.rate("wrong_length", 1.0, on=on, by=-2)
    outcome = tried(timeout=3.0)
    assert any(not row.well for row in outcome.values())
    assert outcome["cleared"].well
    assert server.store.tree() == {}
