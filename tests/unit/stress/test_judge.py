"""The judge of all saves is shown what it must report; and the acts of the job say what they have changed."""

from __future__ import annotations

import pytest
from tests.support.interferences import FAULTS, Interference, Scene, of
from tests.support.judge import ABSENT, Judge, State, differences_shown

from jobfs.emulator import Server
from jobfs.emulator.faults import BEFORE, KINDS
from jobfs.names import Role, hidden_path, new_transaction_id

COPY, HIDDEN = (
    "d/one.conflict-20261130T042204Z",
    hidden_path("d/one", "a" * 12, new_transaction_id(), Role.ASIDE),
)
#: The end of a save over a version that the job had written unread.
RIGHT: dict[str, list[State]] = {"d": [None], "d/one": [b"1"], "d/two": [b"2"], COPY: [b"job"]}

#: What the server has instead, and what is said of it.
ENDS: dict[str, tuple[dict[str, list[State]], list[str]]] = {
    "as it must be": ({}, []),
    "a loss": ({"d/one": []}, ["d/one: nothing; promised: 1 bytes (b'1')", "LOST: 1 bytes (b'1'), promised at d/one"]),
    "an older version": ({"d/two": [b"0"]}, ["d/two: 1 bytes (b'0'); promised: 1", "LOST: 1 bytes (b'2')"]),
    "half of a version": ({"d/two": [b""]}, ["d/two: 0 bytes", "LOST: 1 bytes (b'2')"]),
    "another name": ({"d/one": [], "d/1": [b"1"]}, ["d/1: 1 bytes (b'1'); promised: nothing", "d/one: nothing"]),
    "names exchanged": ({"d/one": [b"2"], "d/two": [b"1"]}, ["d/one: 1 bytes (b'2')", "d/two: 1 bytes (b'1')"]),
    "a stranger": ({"d/x": [b"x"]}, ["d/x: 1 bytes (b'x'); promised: nothing"]),
    "a strange directory": ({"e": [None]}, ["e: a directory; promised: nothing"]),
    "a file instead of the directory": ({"d": [b""]}, ["d: 0 bytes (b''); promised: a directory", "LOST: a directory"]),
    "two items": ({"d/one": [b"1", b"1"]}, ["d/one: there 2 times"]),
    "no copy of the job's version": ({COPY: []}, ["LOST: 3 bytes (b'job'), displaced at d/one"]),
    "a copy of a version that was read": (
        {COPY: [b"0"]}, [f"{COPY}: 1 bytes (b'0'), a second version without a cause", "LOST: 3 bytes (b'job')"]),
    "a copy too many": ({f"{COPY}-1": [b"job"]}, [f"{COPY}-1: 3 bytes (b'job'), a second version without a cause"]),
    "a copy of another file": ({COPY: [], COPY.replace("one", "two"): [b"job"]}, ["d/two.conflict-", "LOST: 3 bytes"]),
    "a hidden item": ({HIDDEN: [b"0"]}, [f"{HIDDEN}: left under a hidden name"]),
}  # fmt: skip


def judged() -> Judge:
    judge = Judge({path: states[0] for path, states in RIGHT.items() if path != COPY})
    judge.displace("d/one", b"job")
    return judge


@pytest.mark.parametrize(("there", "said"), ENDS.values(), ids=ENDS)
def test_each_fault_is_reported_and_nothing_else(there: dict[str, list[State]], said: list[str]) -> None:
    found = {path: states for path, states in (RIGHT | there).items() if states}
    violations = judged().violations(found)
    assert [len(violations), *(any(text.startswith(start) for text in violations) for start in said)] == [
        len(said), *[True] * len(said)]  # fmt: skip


def test_copies_are_excused_only_where_a_harness_says_so() -> None:
    judge = judged()
    judge.excuse([b"0"])
    assert judge.violations(RIGHT | {f"{COPY}-1": [b"0"], f"{COPY}-2": [b"0"]}) == []
    assert len(judge.violations(RIGHT | {f"{COPY}-1": [b"2"]})) == 1


def test_owed_contents_may_have_any_name_and_doubtful_ones_either_state() -> None:
    judge = Judge({"a": b"1"})
    judge.doubt("a", ABSENT)
    judge.doubt("b", b"1")
    judge.owe("a", b"1")
    assert [judge.violations({name: [b"1"]}) for name in "ab"] == [[], []]
    assert judge.violations({}) == ["LOST: 1 bytes (b'1'), promised at a"]


def test_the_files_of_the_mount_and_the_server_are_compared() -> None:
    assert [*differences_shown({"a": b"1", "b": None}, {"b": None, "c": b""})] == [
        ("a", ABSENT, b"1"), ("c", b"", ABSENT)]  # fmt: skip


def test_the_list_has_every_fault_of_the_local_server() -> None:
    """Except weather, which is a mixture of the others, and a wrong length, which only downloads have."""
    assert {fault.kind for fault in FAULTS} == {*KINDS} - {"weather", "wrong_length"}
    assert {fault.like for fault in FAULTS} <= {fault.name for fault in FAULTS} | {""}
    never = {fault.kind for fault in FAULTS if fault.execution == "never"}
    assert never == BEFORE | {"undone"}


#: What each act of the job leaves at dir/f, which had b"old", and elsewhere.
LEFT: dict[str, tuple[State, dict[str, State]]] = {
    "writes": (b"new", {}), "appends": (b"oldnew", {}), "touches": (b"old", {}), "protects": (b"old", {}),
    "replaces": (b"new", {}), "renames over": (b"new", {}), "deletes": (ABSENT, {}), "creates again": (b"old", {}),
    "makes a second item": (b"new", {}), "moves away": (ABSENT, {"x": b"old"}),
    "moves away and makes another": (b"new", {"x": b"old"}), "moves away and back": (b"old", {}),
    "deletes the directory": (ABSENT, {"dir": ABSENT}), "deletes the directory and makes another": (b"new", {}),
}  # fmt: skip


@pytest.mark.parametrize("act", of("job"), ids=str)
@pytest.mark.parametrize("read", [True, False])
def test_the_jobs_act_wins_the_name_only_if_it_saw_the_save(
    server: Server, act: Interference, read: bool
) -> None:
    server.store.seed({"dir/f": b"old"}, age=60)
    after, others = LEFT[act.name]
    judge = Judge({"dir": None, "dir/f": b"old" if read else b"saved"})
    judge.act(act.play(Scene("dir/f", server.store, lambda before: b"new", "x")))
    kept = after if read else b"saved"
    assert judge.at("dir/f") == [kept]
    assert {path: judge.at(path)[0] for path in others} == others
    assert judge.promises == int(not read and after not in (b"old", ABSENT))
