"""Hidden, conflict, scratch and hostile names."""

from __future__ import annotations

import shlex
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.machine import needing

from jobfs import names
from jobfs.names import Role

MOUNT, TRANSACTION = "0123456789ab", "0123456789abcdef"

components = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=300
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= names.NAME_MAX)
paths = (
    st.lists(components, min_size=1, max_size=6)
    .map("/".join)
    .filter(lambda path: names.path_length(path) < names.PATH_MAX)
)

HIDDEN = ".jobfs-0123456789ab-0123456789abcdef-staged-"


@given(paths, st.sampled_from(Role))
@example("/".join(["d" * 200] * 5) + "/file", Role.STAGED)
@example("/".join(["d" * 224] * 4 + ["f" * 100]), Role.STAGED)
def test_a_hidden_path_can_be_parsed_and_fits_the_limit(path: str, role: Role) -> None:
    """save/protocol.md, Vocabulary: `.jobfs-<mount>-<transaction>-<role>-<name of T as far as it fits>`, in T's directory."""
    hidden = names.hidden_path(path, MOUNT, TRANSACTION, role)
    parts = names.parse_hidden_name(names.basename(hidden))
    assert parts is not None
    assert parts[:3] == (MOUNT, TRANSACTION, role)
    assert names.hostile_reason(hidden) is None
    assert names.path_length(hidden) < names.PATH_MAX
    assert names.is_below(path, names.parent(hidden)), "higher up where nothing fits"
    if names.path_length(path) + 60 < names.PATH_MAX:
        assert names.parent(hidden) == names.parent(path)
        assert names.basename(path).startswith(parts.name)


@pytest.mark.parametrize(
    "name",
    [
        ".jobfs", ".jobfs-", ".jobfs-notes.txt", f".jobfs-{MOUNT}-{TRANSACTION}-staged-",
        f".jobfs-{MOUNT}-{TRANSACTION}-other-file", f".jobfs-{MOUNT.upper()}-{TRANSACTION}-staged-x",
        f"x.jobfs-{MOUNT}-{TRANSACTION}-staged-x", f".jobfs-{MOUNT[1:]}-{TRANSACTION}-staged-x",
    ],
)  # fmt: skip
def test_a_name_that_merely_looks_hidden_is_an_ordinary_name(name: str) -> None:
    """vfs/semantics.md 4.26: a name that merely begins with `.jobfs-` but does not fit the pattern is an ordinary file."""
    assert names.parse_hidden_name(name) is None


@pytest.mark.parametrize(
    ("target", "expected"),
    [("file.txt", "file.{}.txt"), ("dir/file", "dir/file.{}"), (".bashrc", ".bashrc.{}"), ("a.tar.gz", "a.tar.{}.gz")],
)  # fmt: skip
def test_a_conflict_copy_is_beside_its_file_with_the_same_extension(target: str, expected: str) -> None:
    """vfs/semantics.md 4: the item set aside becomes `name.conflict-<UTC time>.ext` beside it."""
    when = datetime(2025, 11, 3, 4, 5, 6, tzinfo=UTC)
    assert names.second_version_path(target, "conflict", when) == expected.format("conflict-20251103T040506Z")


def test_the_time_in_the_name_of_a_conflict_copy_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.20."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    before = datetime.now(UTC)
    kept = names.second_version_path("a", "conflict")
    monkeypatch.undo()
    time.tzset()
    when = datetime.strptime(kept, "a.conflict-%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert before - timedelta(seconds=1) <= when <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a/../b", "'..'"), ("./a", "'.'"), ("a//b", "''"), ("", "''"), ("a\0", "NUL"), ("é" * 128, "255"),
        ("a/\ud800", "Unicode"), ("a/" * 512 + "b", "1024"), ("😀/" * 341 + "bb", "1024"),
    ],
)  # fmt: skip
def test_a_hostile_path_is_recognised(path: str, reason: str) -> None:
    assert reason in (names.hostile_reason(path) or "")


def test_names_of_editors_and_of_the_users_patterns_are_scratch() -> None:
    editors = [
        ".file.swp", "4913", "file~", ".#file", "#file#", ".goutputstream-AB", ".~lock.a.odt#", ".DS_Store",
        "._a", ".nfs01",
    ]  # fmt: skip
    assert all(map(names.is_scratch, editors))
    assert names.is_scratch("a.tmp", ("*.tmp",))
    assert not any(names.is_scratch(name, ("*.tmp",)) for name in ("A.TMP", "49130", "a.txt"))


@pytest.mark.parametrize(
    ("asked", "shown", "wanted"),
    [
        ("a/README", "a/readme", "'a/README' as 'a/readme'"), ("A/b", "a/b", "'A/b' as 'a/b'"),
        ("u\u0308", "\u00fc", r"'u\u0308' as '\xfc'"), ("\u00fc", "u\u0308", r"'\xfc' as 'u\u0308'"),
        ("a /b. ", "a/b", "'a /b. ' as 'a/b'"), (f"d/{HIDDEN}B", f"d/{HIDDEN}b", "'d/B' as 'd/b'"),
        (f"d/{HIDDEN}a:b", f"d/{HIDDEN}a_b", "'d/a:b' as 'd/a_b'"), (f"d/{HIDDEN} ", f"d/{HIDDEN}", "'d/ ' as"),
        ("a", "a", ""), ("a", "b", ""), ("a", "d/a", ""), (f"{HIDDEN}a", "a", ""),
        (f"{HIDDEN}a", HIDDEN.replace("f-", "e-") + "a", ""), (f"d/{HIDDEN}a", f"e/{HIDDEN}a", ""),
    ],
)  # fmt: skip
def test_another_form_of_a_path_is_distinguished_from_another_path(
    asked: str, shown: str, wanted: str
) -> None:
    """save/protocol.md R6: equal after NFC and case folding, not equal as sent."""
    assert (wanted or "nothing") in (names.describe_other_form(asked, shown) or "nothing")


@given(paths, components)
def test_a_path_splits_into_parent_and_name(path: str, name: str) -> None:
    assert names.join(names.parent(path), names.basename(path)) == path
    inside = names.join(path, name)
    assert names.is_below(inside, path)
    assert not names.is_below(path, path)
    assert names.is_below(path, "")
    assert names.path_after_rename(inside, path, "other") == f"other/{name}"


@given(paths, st.sampled_from(["conflict", "recovered"]), st.integers(0, 49))
def test_the_name_of_a_conflict_copy_fits_and_is_recognised(path: str, label: str, attempt: int) -> None:
    """vfs/semantics.md 4, Keep both: conflict copies need no table: their names say what they are, where they fit."""
    kept = names.second_version_path(path, label, attempt=attempt)
    assert names.hostile_reason(kept) is None
    assert names.path_length(kept) < names.PATH_MAX
    found = names.parse_second_version(kept, [path]) or ("", "")
    assert found[0] == label
    if names.path_length(path) < 900:
        assert found[1] == path


def test_a_copy_with_a_cut_name_is_of_the_only_file_that_it_can_come_from() -> None:
    """vfs/semantics.md 4.21: not of another copy; of two such files, it can't be known."""
    file, other = (f"dir/{'é' * 120}{number}.txt" for number in range(2))
    kept = [names.second_version_path(file, "conflict", attempt=attempt) for attempt in range(2)]
    for known, is_found in (
        ([], False),
        ([file], True),
        ([file, "dir/é.txt", *kept], True),
        ([file, other], False),
    ):
        assert [names.parse_second_version(each, known) == ("conflict", file) for each in kept] == [
            is_found
        ] * 2


def test_conflict_copies_are_ordered_by_time_and_number() -> None:
    """vfs/semantics.md 4.57: the oldest first, also where several were kept in one second."""
    times = [datetime(2024, 5, day, 12, tzinfo=UTC) for day in (1, 2)]
    kept = [
        names.second_version_path("dir/a.txt", "conflict", when, number)
        for when in times
        for number in (0, 1, 2, 10)
    ]
    younger_first = kept[::-1]
    assert sorted(younger_first, key=names.second_version_order) == kept
    assert names.second_version_order("a.txt") == ("", 0)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("a.conflict-20240501T120000Z.txt", ("conflict", "a.txt")),
        ("dir.d/a.recovered-20240501T120000Z-3", ("recovered", "dir.d/a")),
        ("a.b.conflict-20240501T120000Z.tar", ("conflict", "a.b.tar")),
        ("a.conflict-20240501T120000Z.conflict-20240502T120000Z.x", ("conflict", "a.conflict-20240501T120000Z.x")),
        ("a.conflict-20240501t120000z.txt", ("conflict", "a.txt")), ("a.conflict-2024.txt", None),
        ("a.merge-20240501T120000Z.txt", None), ("a.conflict-20240501T120000Z/b", None), ("a.txt", None),
    ],
)  # fmt: skip
def test_only_the_name_of_a_kept_version_is_a_conflict_copy(
    path: str, wanted: tuple[str, str] | None
) -> None:
    assert names.parse_second_version(path) == wanted


#: Names by which a job could try to have a command run where a person pastes what jobfs prints, in one shell or another.
PASTED = [
    "plain/name-1.txt", "", " ", "-n", "~", "=ls", "*", "?", "[a]", "{a,b}", "#", "!!", "!ls", "%self", "a b", "$HOME", "dünn 雪",
    "$(touch RAN)", "`touch RAN`", "; touch RAN", "| touch RAN", "& touch RAN;", "'; touch RAN; '", '"; touch RAN; "',
    "it's", "\\", "\\\\", "x\\", "\\'", "\\'\";touch RAN;#", "\\\\'; touch RAN; '", "'\\''; touch RAN #", "(touch RAN)", "a\\nb",
]  # fmt: skip
#: The same with what a terminal or a shell obeys by itself.
STEERING = [
    "new\nline", "\ntouch RAN\n", "tab\t", "\x1b[201~\ntouch RAN\n", "'\n;touch RAN;'", "\\'\n!!", "right\u202eleft", "\x7f",
    "dünn\n雪", "\x85", "\r7", "$'\n'",
]  # fmt: skip


def words_of(shell: str, arguments: list[str], place: Path) -> list[str]:
    """The words into which a shell splits text pasted after a command."""
    script = place / "script"
    script.write_text(f"printf '%s\\0' {' '.join(arguments)}\n")
    done = subprocess.run([shell, script], cwd=place, capture_output=True, timeout=30)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("shell", ["bash", *map(needing, ["zsh", "dash", "fish"])])
def test_a_quoted_name_is_one_word_for_the_shell(shell: str, tmp_path: Path) -> None:
    """vfs/semantics.md 6.16: whatever names are in a command, it runs nothing else, and it is one line."""
    steering = list(map(names.quote_for_shell, STEERING))
    assert "".join(steering) == names.escape_for_terminal("".join(steering)), "nothing that a terminal obeys"
    assert words_of(shell, list(map(names.quote_for_shell, PASTED)), tmp_path) == PASTED
    if shell in ("bash", "zsh"):
        assert words_of(shell, steering, tmp_path) == STEERING
    for word in steering:
        words_of(shell, [word], tmp_path)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    ("name", "pasted"),
    [("a\udcff", "$'a\\377'"), ("a\ud83d", "$'a\\355\\240\\275'")],
    ids=["a byte", "half a pair"],
)
def test_a_name_that_is_not_utf_8_is_quoted_too(name: str, pasted: str) -> None:
    """vfs/semantics.md 6.16: a byte of a path on this machine, and what a server may send."""
    assert names.quote_for_shell(name) == pasted


@given(components)
def test_the_shell_reads_a_quoted_name_unchanged(name: str) -> None:
    assert names.quote_for_shell(name) == names.escape_for_terminal(names.quote_for_shell(name))
    if names.escape_for_terminal(name) == name:
        assert shlex.split(names.quote_for_shell(name)) == [name]
