"""Commands in messages, which people paste into a shell, quote the names that are in them (vfs/semantics.md 6.16).

Most are built by `settings.shell_command`, which quotes; this looks at the others.
"""

from __future__ import annotations

import re
from pathlib import Path

_PACKAGE = Path(__file__).parents[2] / "src" / "jobfs"

#: A command in an f-string, up to its first field.
_COMMAND = re.compile(r"\b(?:jobfs (?:[a-z]+-?)+|fusermount|diff -u|chmod|sudo)(?: [\w+=-]+)* \{([^}]*)\}")
#: A job's id has letters and digits only; constants are what they are.
_SAFE = re.compile(r"quote_for_shell\(|shlex\.quote\(|.*\b_[A-Z]+\b|(?:.*\W)?job(?:_id)?\W*$")


def test_each_name_in_a_printed_command_is_quoted() -> None:
    """vfs/semantics.md 6.16."""
    found = [
        (path.name, command[0], command[1])
        for path in sorted(_PACKAGE.rglob("*.py"))
        for command in _COMMAND.finditer(path.read_text(encoding="utf-8"))
    ]
    assert len(found) > 5
    assert [f"{file}: {text}" for file, text, field in found if not _SAFE.match(field)] == []
