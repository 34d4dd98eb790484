"""`jobfs doctor JOB --try`: all that it prints of servers that differ, refuse or fail, and its exit code; it leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from jobfs.__main__ import main
from jobfs.api.access import fixed_key
from jobfs.api.client import Client
from jobfs.emulator import Server
from jobfs.emulator.exchange import FileAnswer
from jobfs.emulator.workspace import _KEPT, Workspace
from jobfs.names import Role, hidden_path
from jobfs.nodes import Kind, Permission
from jobfs.state.server import KnownServer, ServerFacts
from jobfs.trial import questions
from jobfs.trial.questions import Trial, clean_up_trial

#: Runs `jobfs doctor ARGUMENTS`: the exit code, and what is printed to stdout and stderr.
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    server: Server,
    able: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """In this process, on a machine where FUSE is; in what it prints, URL and ID stand for the server's and those of items."""
    for name, value in (
        ("PERSTACK_API_KEY", server.key),
        ("JOBFS_BASE_URL", server.url),
        ("JOBFS_STATE_DIR", str(tmp_path / "state")),
        ("HOME", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            questions, "_TICK", 1.1 if server.behaviour.updated_resolution == "seconds" else 0.01
        )
        capfd.readouterr()
        code = main(["doctor", *arguments])
        out, err = capfd.readouterr()
        assert server.key not in out + err
        return code, re.sub(r"item [a-z0-9]{24}", "item ID", out.replace(server.url, "URL")), err

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


MACHINE = (
    "ok      8 checks of this machine, the key and the connection to the server passed (--verbose shows them)"
)
JSON = "an upload is a third longer than the file (it is sent as JSON)"
SIZES = "`ls -l` costs one request per version of a file, and offline shows only known sizes (the server gives no sizes)"
TWO = "each new file or directory takes two requests (a create at a taken path is not refused)"
TWO_BY_NAME = "each new file or directory takes two requests (names are not kept as they are sent)"
READ = "a save downloads the version that it replaces (a move changes updatedAt)"
JUMP = "a read far into a large file waits for everything before it (Range is ignored)"
NFC, NFD, ASCII, LOWER, TRIMMED = (
    f"WARN    names: the server keeps names only {form}: "
    "a save under another name fails (EIO), and its bytes stay on this machine: use such names"
    for form in ("composed (Unicode NFC; Macs write NFD)", "decomposed (Unicode NFD)", "in ASCII", "without capitals",
                 "without a blank at the end")
)  # fmt: skip
EXDEV = (
    "WARN    moves: a directory that is not empty can't be renamed (EXDEV), because its contents would stay behind: "
    "use mv, which copies it"
)
READ_ONLY = "WARN    permissions: readOnly items can't be renamed, replaced or deleted: run `chmod +w` first"
ALL, NONE = dict.fromkeys(Kind, True), dict.fromkeys(Kind, False)


@pytest.mark.parametrize(("switches", "warned", "well", "slower", "facts"), [
    ({"move_touches": "no"}, [], 7, [], ServerFacts(rejects=ALL, moves_keep_updated_at=True)),
    ({"updated_resolution": "seconds", "move_touches": "no"}, [], 7, [], ServerFacts(rejects=ALL, moves_keep_updated_at=True)),
    ({"find": "glob", "list_order": "unstable", "delete_body": "item"}, [], 6, [READ], ServerFacts(rejects=ALL)),
    ({"page_cap": 7, "move_touches": "tree", "type_spelling": "short", "input_spelling": "own"}, [], 6, [READ],
     ServerFacts(rejects=ALL)),
    ({"create_existing": "overwrite", "path_style": "slash", "envelope": "item"}, [], 5, [TWO, READ], ServerFacts(rejects=NONE)),
    ({"create_existing": "duplicate", "sizes": "omitted"}, [], 4, [SIZES, TWO, READ], ServerFacts(rejects=NONE)),
    ({"ranges": False, "move_touches": "no"}, [], 6, [JUMP], ServerFacts(rejects=ALL, moves_keep_updated_at=True, ranges=False)),
    ({"move_carries": False, "read_only": "enforced"}, [EXDEV, READ_ONLY], 5, [READ],
     ServerFacts(rejects=ALL, moves_carry=False)),
    ({"name_form": "nfc"}, [NFC], 4, [TWO_BY_NAME, READ], ServerFacts()),
    ({"name_form": "nfd"}, [NFD], 4, [TWO_BY_NAME, READ], ServerFacts()),
    ({"name_form": "lower"}, [LOWER], 4, [TWO_BY_NAME, READ], ServerFacts()),
    ({"name_form": "trimmed"}, [TRIMMED], 4, [TWO_BY_NAME, READ], ServerFacts()),
    ({"create_existing": "duplicate", "updated_resolution": "seconds", "page_cap": 7, "sizes": "omitted", "ranges": False,
      "list_order": "unstable", "move_carries": False, "move_touches": "tree", "read_only": "enforced", "name_form": "nfc",
      "create_encodings": "json"},
     [NFC, EXDEV, READ_ONLY], 1, [JSON, SIZES, TWO_BY_NAME, READ, JUMP], ServerFacts(moves_carry=False, ranges=False)),
])  # fmt: skip
def test_everything_printed_about_a_server_is_true(
    run: Run, server: Server, tmp_path: Path,
    switches: dict[str, Any], warned: list[str], well: int, slower: list[str], facts: ServerFacts,
) -> None:  # fmt: skip
    """vfs/semantics.md 6.13: it shows what is not as wished."""
    server.store.seed({"notes/a.md": "hello", **{f"more/{number}": "" for number in range(9)}})
    # What a mount has hidden is not taken for what a try has left.
    roles = [role for role in Role if role is not Role.TRIED]
    server.store.seed({hidden_path("a", "0" * 12, "0" * 16, role): "a" for role in roles}, age=4000)
    before = server.store.tree()
    server.set(**switches)
    code, out, err = run(server.job, "--try", "--yes")
    cost = [f"ok      works, but slower: {'; '.join(slower)}"] if slower else []
    checks = f"ok      {well} check{'s' if well > 1 else ''} of the server passed (--verbose shows them)"
    assert out.splitlines() == [MACHINE, *warned, checks, *cost, "a mount works"]
    assert (code, err) == (0, f"jobfs: testing whether {server.url} does what jobfs relies on\n")
    known = {
        **dict.fromkeys(("moves_refused", "moves_carry", "ranges"), True),
        **facts.model_dump(exclude_unset=True),
    }
    assert KnownServer(tmp_path / "state", server.url).facts == ServerFacts(**known)
    assert server.store.tree() == before


def test_a_server_that_changes_both_unicode_forms_is_said_to_keep_ascii(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 6.13: one question about names, one answer."""
    monkeypatch.setitem(_KEPT, "nfc", lambda path: path.encode("ascii", "ignore").decode())
    server.set(name_form="nfc")
    assert [line for line in run(server.job, "--try", "--yes")[1].splitlines() if "WARN" in line] == [ASCII]


def lying(workspace: Workspace, item_id: str, path: Any, permission: Any, lifecycle: Any) -> Any:
    """An update that is answered and not done."""
    item = workspace.get(item_id)
    return replace(item, path=path or item.path)


OTHER_KEY = "use a key that is allowed to do this, or mount only with --read-only"
UNSURE, UNSAFE, FAILED = (
    "it is not known whether a mount works: see UNSURE",
    "a mount is safe only with --read-only: see UNSAFE",
    "a mount does not work: fix what FAILED",
)


@pytest.mark.parametrize(("spoil", "replaced", "rows", "end"), [
    (lambda server: server.faults.set_rate("error", 1.0, on="create", status=403), None,
     [f"UNSAFE  writes: making directory try: the server answered 403 Forbidden: Injected fault: {OTHER_KEY}"], UNSAFE),
    (lambda server: server.faults.set_rate("error", 1.0, on="delete", status=403), None,
     [f"UNSAFE  creates: deleting item ID: the server answered 403 Forbidden: Injected fault: {OTHER_KEY}",
      "UNSAFE  cleanup: 3 items of this test can't be deleted (no mount shows them): mount only with --read-only"], UNSAFE),
    (lambda server: server.faults.fail_next("drop_after", on="create"), None,
     ["UNSURE  writes: making directory try: the connection broke: Server disconnected without sending a response.: "
      "run this again when the server answers"], UNSURE),
    (lambda server: server.faults.fail_next("error_after", on="update", status=502), None,
     ["UNSURE  moves: renaming an item to try/to: the server answered 502 Bad Gateway: Injected fault: "
      "run this again when the server answers"], UNSURE),
    (lambda server: server.faults.set_rate("undone", 1.0, on="update"), None,
     ["UNSAFE  moves: renaming an item to try/to: the reply does not match the API reference: path is 'try/from', not 'try/to': "
      "mount only with --read-only"], UNSAFE),
    (lambda server: server.faults.set_rate("wrong_length", 1.0, on="download", by=-2), None,
     ["FAILED  reads: a download returns other bytes than were uploaded: don't use this server"], FAILED),
    (None, (FileAnswer, "chunks", lambda answer, _: iter([os.pread(answer._fd, answer.length, 0)])),
     ["FAILED  reads: a download returns other bytes than were uploaded: don't use this server"], FAILED),
    (lambda server: server.set(move_existing="replace"), None,
     ["UNSAFE  moves: a move to a taken path is not refused, so no save is safe: mount only with --read-only"], UNSAFE),
    (None, (Workspace, "update", lying),
     ["UNSAFE  moves: a move was confirmed but not made, so no save is safe: mount only with --read-only",
      "WARN    permissions: `chmod -w` fails, because readOnly is not kept: leave permissions as they are"], UNSAFE),
    (None, (Workspace, "find", lambda workspace, path: []),
     ["FAILED  writes: a new file is not found by find, so a mount would miss files: don't use this server"], FAILED),
])  # fmt: skip
def test_an_unreliable_server_is_reported_with_the_remedy(
    run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Server], object] | None,
    replaced: Any, rows: list[str], end: str,
) -> None:  # fmt: skip
    """vfs/semantics.md 6.13: the last line and the exit code say whether a mount works.

    save/protocol.md R13: where a move may replace, no save is safe; that is remembered, and no mount of it overlaps requests.
    """
    if spoil:
        spoil(server)
    if replaced:
        monkeypatch.setattr(*replaced)
    code, out, _ = run(server.job, "--try", "--yes", "--timeout", "3")
    assert [line for line in out.splitlines() if not line.startswith("ok ")] == [*rows, end]
    assert (code, len(server.store.tree())) == (1, 3 if "cleanup" in out else 0)
    known = KnownServer(tmp_path / "state", server.url).facts
    assert (known.moves_refused is False) is ("is not refused, so no save" in out)


def test_a_later_trial_removes_what_a_silent_server_kept(run: Run, server: Server) -> None:
    server.faults.set_rate("hang", 1.0, on="delete")
    code, out, _ = run(server.job, "--try", "--yes", "--timeout", "1")
    asked, cleanup, end = [line for line in out.splitlines() if not line.startswith("ok ")]
    assert (code, asked.split(":")[0], end) == (1, "UNSURE  creates", UNSURE)
    assert re.fullmatch(
        "UNSURE  cleanup: .*: no mount shows the items that are left, and a --try in ten minutes deletes them",
        cleanup,
    )
    server.faults.clear()
    left = server.store.tree()
    run(server.job, "--try", "--yes")
    assert server.store.tree() == left != {}, "it may be under way"
    server.set(clock_skew=questions.ABANDONED + 1)
    assert (run(server.job, "--try", "--yes")[0], server.store.tree()) == (0, {})


def test_a_trial_removes_its_read_only_items(server: Server, tmp_path: Path) -> None:
    server.set(read_only="enforced")
    with Client(server.url, server.job, fixed_key(server.key)) as client:
        trial = Trial(client, tmp_path)
        client.create_directory(trial.root, Permission.READ_WRITE)
        client.create_file(trial.path("left"), *trial.make_source(b"?"), Permission.READ_ONLY)
        assert [row.mark for row in clean_up_trial(trial)] == ["ok"]
    assert server.store.tree() == {}


def test_a_trial_removes_its_items_after_any_failure(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "make_source", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    assert run(server.job, "--try", "--yes")[0] == 70
    assert [entry.operation for entry in server.log.changes()] == ["create", "delete"]
    assert server.store.tree() == {}


@pytest.mark.parametrize(("change", "message"), [
    ({"key": "another-key"}, "URL refuses the API key: check PERSTACK_API_KEY or --api-key-file"),
    ({"job": "j" * 24}, f"URL knows no job {'j' * 24}, or it has no workspace yet: check the job id"),
    ({"url": "https"}, "can't use https://127.0.0.1:PORT: asking for the job: the server does not speak https: for a server on "
                       "this machine give http://, else another port; check the URL and the network"),
    ({"down": True}, "can't use URL: asking for the job: no connection: [Errno 111] Connection refused; "
                     "check the URL and the network"),
])  # fmt: skip
def test_a_job_that_cannot_be_reached_gets_no_trial(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    """vfs/semantics.md 6.13: with a remedy for each failure."""
    monkeypatch.setenv("PERSTACK_API_KEY", change.get("key", server.key))
    port = server.url.rpartition(":")[2]
    monkeypatch.setenv("JOBFS_BASE_URL", server.url.replace("http", change.get("url", "http")))
    with server.down() if "down" in change else contextlib.nullcontext():
        code, out, _ = run(change.get("job", server.job), "--try", "--yes")
    assert (code, out.replace(port, "PORT").splitlines()) == (
        1, [f"FAILED  job: {message}", MACHINE.replace("8", "7"), FAILED],
    )  # fmt: skip
