"""The judge of the crash-test is fed rounds in which something went wrong, and reports each; a right one it lets pass."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.stress.killing import job, verdict
from tests.stress.killing.conditions import Conditions
from tests.stress.killing.contents import ABSENT, Content, Contents
from tests.stress.killing.ledger import BLIND, Ledger
from tests.support.files import on_disk
from tests.support.interferences import of
from tests.support.judge import leftovers
from tests.support.serverside import found_on, visible

from jobfs.emulator import Rule, Server
from jobfs.names import Role, hidden_path, new_transaction_id

CALM = Conditions()
LATE = Conditions(faults=(Rule("late", "change", rate=0.1, delay=0.2),))
JOB = Conditions(job_pause=0.1)
LOST = Conditions(faults=(Rule("drop_after", "change", rate=0.1),))

SECOND = "20261130T042204Z"


class Round:
    """One that went well: files that were saved, renamed, unlinked, appended to, made by the job, or left alone."""

    def __init__(self, conditions: Conditions) -> None:
        self.contents = Contents(1)
        self.conditions = conditions
        self.old = {name: self.make(name) for name in ("saved", "renamed", "gone", "alone", "other")}
        self.ledger = Ledger(self.old, conditions.lateness)
        self.new, self.jobs = self.make("new"), self.contents.make("job", 40, by_job=True)
        self.saves("saved", self.new)
        self.ledger.keep(self.ledger.rename("renamed", "target"))
        self.ledger.keep(self.ledger.unlink("gone"))
        self.ledger.keep(self.ledger.mkdir("dir"))
        self.draft = self.make("draft")
        self.saves("scratch~", self.draft)
        if conditions.job_pause:
            self.ledger.job("writes", "jobs", ABSENT, self.jobs, same=False)
        self.server = {name: self.old[name].data for name in ("alone", "other")}
        self.server |= {"saved": self.new.data, "target": self.old["renamed"].data}
        if conditions.job_pause:
            self.server["jobs"] = self.jobs.data
        self.local = {"scratch~": self.draft.data}
        #: What the mount shows instead.
        self.shown: dict[str, bytes] = {}

    def make(self, name: str) -> Content:
        return self.contents.make(name, 60)

    def saves(self, path: str, content: Content) -> None:
        self.ledger.keep(self.ledger.put(path, content, ABSENT, "save"), durable=True)

    def judge(self, server: Server, root: Path) -> list[str]:
        """What the verdict says of it, as the crash-test asks for it."""
        server.store.seed({**self.server, "dir": None})
        for path, data in {**self.server, **self.local, **self.shown}.items():
            (root / path).write_bytes(data)
        (root / "dir").mkdir()
        there, shown = self.contents.tree(visible(server)), self.contents.tree(on_disk(root))
        return verdict.Verdict(self.ledger, there, shown, self.conditions).judge()


def flips(one: Round) -> None:
    """A delete and a move are carried out late: each name shows what it once was."""
    one.server |= {"renamed": one.server.pop("target"), "gone": one.old["gone"].data}


#: What goes wrong, and what is said of it.
FAULTS: dict[str, tuple[Callable[[Round], object], str]] = {
    "a save is lost": (lambda one: one.server.pop("saved"), "LOST: new #"),
    "a save is replaced by what was there before": (
        lambda one: one.server.update(saved=one.old["saved"].data), "LOST: new #"),
    "a renamed file is lost": (lambda one: one.server.pop("target"), "LOST: renamed #"),
    "a file that nobody touched is lost": (lambda one: one.server.pop("alone"), "alone: nothing; promised: alone #"),
    "a file of this machine is lost": (lambda one: one.local.clear(), "LOST: draft #"),
    "half of a save": (lambda one: one.server.update(saved=one.new.data[:70]), "saved: TORN: 70 bytes"),
    "half of each of two versions": (
        lambda one: one.server.update(saved=one.new.data[:70] + one.old["saved"].data[70:]), "saved: TORN"),
    "half of a second version": (
        lambda one: one.server.update({f"saved.conflict-{SECOND}": one.new.data[:70]}), ": TORN: 70 bytes"),
    "an empty file": (lambda one: one.server.update(saved=b""), "saved: TORN: empty"),
    "two files have changed their names": (
        lambda one: one.server.update(alone=one.old["other"].data, other=one.old["alone"].data), "alone: other #"),
    "what was never there stands at a name that was worked on": (
        lambda one: one.server.update(gone=one.old["other"].data), "gone: other #"),
    "the mount shows other bytes than the server has": (
        lambda one: one.shown.update(alone=one.old["other"].data), "alone: the mount shows other #"),
    "a file appears": (lambda one: one.server.update(strange=one.make("x").data), "strange: x #"),
    "something is recovered that no program left open": (
        lambda one: one.server.update({f"saved.recovered-{SECOND}": one.make("x").data}), "a second version without a cause"),
}  # fmt: skip

#: Where nobody interferes, or no answer is lost, these are wrong too.
QUIET: dict[str, tuple[Callable[[Round], object], str]] = {
    "a second version": (
        lambda one: one.server.update({f"saved.conflict-{SECOND}": one.old["saved"].data}), "a second version without a cause"),
    "one content at two names": (lambda one: one.server.update(renamed=one.server["target"]), "is there more than once"),
    "names flip": (flips, "gone: gone #"),
}  # fmt: skip


@pytest.mark.parametrize("fault", [*FAULTS, *QUIET])
@pytest.mark.parametrize("conditions", [CALM, LATE, JOB], ids=["calm", "late", "the job"])
def test_the_verdict_reports_each_fault(
    server: Server, tmp_path: Path, conditions: Conditions, fault: str
) -> None:
    plant, said = {**FAULTS, **QUIET}[fault]
    one = Round(conditions)
    plant(one)
    found = one.judge(server, tmp_path)
    if conditions is CALM or fault in FAULTS:
        assert any(said in text for text in found), found


@pytest.mark.parametrize(
    "conditions", [CALM, LATE, JOB, LOST], ids=["calm", "late", "the job", "answers lost"]
)
def test_the_verdict_passes_a_correct_round(server: Server, tmp_path: Path, conditions: Conditions) -> None:
    assert Round(conditions).judge(server, tmp_path) == []


def test_a_name_may_flip_where_requests_take_effect_late(server: Server, tmp_path: Path) -> None:
    """save/protocol.md, What the API does not allow."""
    one = Round(LATE)
    flips(one)
    assert one.judge(server, tmp_path) == []


def test_the_verdict_reports_a_lost_unseen_write_of_the_job(server: Server, tmp_path: Path) -> None:
    one = Round(JOB)
    del one.server["jobs"]
    assert any("LOST: the job's job #" in text for text in one.judge(server, tmp_path))


def test_fsynced_bytes_are_on_the_server_when_the_mount_dies(server: Server) -> None:
    one = Round(CALM)
    server.store.seed(one.server)
    assert verdict.durable_missing(server, one.contents, one.ledger) == []
    server.store.delete("saved")
    (text,) = verdict.durable_missing(server, one.contents, one.ledger)
    assert "was on the server at ['saved']" in text


@pytest.mark.parametrize(
    ("kept", "missing"), [("file", 0), (f"file.recovered-{SECOND}", 0), ("elsewhere", 1)]
)
def test_bytes_that_were_not_closed_are_in_the_file_or_beside_it(
    tmp_path: Path, kept: str, missing: int
) -> None:
    one = Round(CALM)
    one.ledger.drafts = [("file", b"not closed")]
    (tmp_path / kept).write_bytes(b"not closed")
    assert len(verdict.drafts_missing(tmp_path, one.contents, one.ledger)) == missing


def test_wrong_modes_and_leftover_items_are_reported(server: Server, tmp_path: Path) -> None:
    one = Round(CALM)
    one.ledger.modes = {"saved": 0o400}
    (tmp_path / "saved").touch(0o644)
    assert verdict.modes_wrong(tmp_path, one.ledger) == ["saved: mode 644; promised: 400"]
    left = hidden_path("saved", "a" * 12, new_transaction_id(), Role.ASIDE)
    server.store.seed({left: "x"})
    assert leftovers(found_on(server)) == [f"{left}: left under a hidden name"]


def test_the_servers_version_may_return_after_a_killed_backup() -> None:
    """vfs/semantics.md 4.35: it came to its name by a rename over it, and was replaced by another that was not sent yet."""
    contents = Contents(1)
    first, second = contents.make("first", 60), contents.make("second", 60)
    ledger = Ledger({"file": contents.make("old", 60)}, 0.0)
    for content in (first, second):
        ledger.keep(ledger.put("draft", content, ABSENT, "save"))
        ledger.keep(ledger.rename("draft", "file"))
    ledger.keep(ledger.rename("file", "file~"))
    assert ledger.at("file") == {ABSENT}
    ledger.end_of_life(time.monotonic())
    assert ledger.at("file") == {ABSENT, first, second}


def test_the_server_may_have_moved_older_bytes_than_the_local_ones() -> None:
    """vfs/semantics.md 4.35: the newer ones were not sent when the name was taken, and a backup of them was killed."""
    contents = Contents(1)
    first, second = contents.make("first", 60), contents.make("second", 60)
    ledger = Ledger({"draft": first}, 0.0)
    ledger.keep(ledger.put("draft", second, first, "save"))
    ledger.keep(ledger.rename("draft", "file"))
    ledger.keep(ledger.rename("file", "file~"))
    ledger.end_of_life(time.monotonic())
    assert ledger.at("file") == {ABSENT, first, second}


@pytest.mark.parametrize("killed_first", [True, False])
def test_a_write_that_failed_because_of_the_kill_may_return(killed_first: bool) -> None:
    """vfs/semantics.md 4.3: EIO of a mount that is being killed is no answer; that of a mount that lives is one."""
    contents = Contents(1)
    first = contents.make("first", 60)
    ledger = Ledger({"file": first}, 0.0)
    before = time.monotonic()
    ledger.failed(ledger.put("file", contents.make("second", 60), first, "save"), OSError(errno.EIO, "dying"))
    ledger.end_of_life(before if killed_first else time.monotonic() + 1)
    assert ledger.unclosed == ({"file"} if killed_first else set())


@pytest.mark.parametrize(("synced", "states"), [(True, {"new"}), (False, {"new", "saved", "nothing"})])
def test_a_loss_of_power_may_move_only_unsent_bytes_beside_their_name(synced: bool, states: set[str]) -> None:
    """vfs/semantics.md 4.4: they exist, at the name or beside it; what the server has is not concerned."""
    one = Round(CALM)
    new = one.make("new")
    one.ledger.keep(one.ledger.put("saved", new, BLIND, "save"), durable=synced)
    one.ledger.end_of_life(time.monotonic(), power_lost=True)
    assert {content.name.partition(" #")[0] for content in one.ledger.at("saved")} == states
    assert (new in one.ledger.claims, "saved" in one.ledger.unclosed) == (True, not synced)


def test_the_acts_that_the_crash_test_leaves_out_are_on_the_list() -> None:
    assert {act.name for act in of("job")} >= job.LEFT_OUT
