"""Printed names and reasons never steer a terminal; a drain says how far it is, where nobody watches a bar."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobfs.cli.screen import confirm, escape_for_terminal
from jobfs.document import make_event

from .world import Run, a_status

#: A title that is set, a line that is added, half a character, a byte that is none, and a direction turned round.
EVIL = "a\x1b]0;owned\x07b\nmount fine\udc80\ud83d\x9b2J\u202etxt\rz\x7f"
SAFE = r"a\x1b]0;owned\x07b\nmount fine\udc80\ud83d\x9b2J\u202etxt\rz\x7f"


def test_control_characters_are_escaped_and_other_characters_stay() -> None:
    assert escape_for_terminal(EVIL) == SAFE
    assert escape_for_terminal("Äpfel 日本 🎉 a b") == "Äpfel 日本 🎉 a b"
    assert escape_for_terminal("one\ntwo\t", keep="\n") == "one\ntwo\\t"


def entry(**more: object) -> dict[str, object]:
    return {"path": EVIL, "reason": EVIL, **more}


def status() -> dict[str, object]:
    lists: dict[str, object] = {
        "failed": [entry()], "unsent": [entry(size=5, sent=0, age=3.0)], "conflicts": [entry(diff=f"diff {EVIL}")],
        "hostile": [entry()], "cleaning": [entry()], "foreign_hidden": [entry()], "shadowed": [entry()],
    }  # fmt: skip
    told = a_status()
    job = {**told["job"], "status": EVIL, "model": EVIL}
    server = {**told["server"], "answering": False, "last_error": EVIL}
    return a_status(job=job, server=server, directory=f"/mnt/{EVIL}", **lists)


def changed() -> list[Any]:
    evil: Any = status()
    told = make_event(evil, EVIL, EVIL, old=EVIL, reason=EVIL, job=evil["job"])
    return [told, make_event(evil, "created", EVIL, directory=True)]


#: What the mount answers, by the command with its arguments, and how often it prints such a text at least.
COMMANDS: list[tuple[str, dict[str, object], int]] = [
    ("status /mnt/j", {"status": status()}, 17),
    ("info /mnt/j/f", {"info": {"id": EVIL, "error": EVIL, EVIL: "x"}}, 3),
    ("flush /mnt/j", {"flush": {"left": [entry()]}}, 1),
    ("umount /mnt/j", {"umount": {"left": [entry()], "goes_on": 1, "open": EVIL}}, 2),
    ("retry /mnt/j", {"retry": {"paths": [EVIL]}}, 1),
    ("discard -y /mnt/j", {"status": status(), "discard": {"given_up": [[EVIL, EVIL]]}}, 2),
    (f"umount /mnt/{EVIL.split()[0]}", {}, 0),
    ("watch /mnt/j", {"watch": lambda args, conversation: list(map(conversation.send_event, changed()))}, 5),
]


@pytest.mark.parametrize(("command", "handlers", "number"), COMMANDS)
def test_a_command_escapes_names_of_the_server_and_the_job(
    run: Run, answering: Callable[..., object], command: str, handlers: dict[str, object], number: int
) -> None:
    answering("/mnt/j", **handlers)
    outcome = run(*command.split(" "))
    printed = outcome.out + outcome.err
    assert outcome.code == (0 if command[:5] in ("info ", "retry", "disca") else 1 if handlers else 2)
    assert printed.count(SAFE) >= number, printed
    assert "\x1b" not in printed
    assert "\nmount fine" not in printed


def test_characters_that_the_terminals_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    code = "import sys; from jobfs.__main__ import main; sys.argv = ['jobfs', '--help']; main(); print('\\u65e5')"
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=40)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"\\u65e5\n")


def test_a_question_is_asked_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A redirected output must not hide it."""
    typed = io.StringIO("y\n")
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    assert confirm("Go?")
    assert capsys.readouterr() == ("", "Go? [y/N]: ")
