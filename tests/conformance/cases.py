r"""Cases as text: what a program does, and what it sees.

A case is a title and indented steps, one a line::

    an unlinked file stays readable through its handle
        create f 0644 text
        a = open f RDONLY
        unlink f
        stat f                  -> ENOENT
        nobody chmod f 0600     -> EPERM
        read a

`create f …` names a call (syscalls.py has them all). A user's name before it: that user makes the call, else the user who runs
tests. `a =` gives a handle a name. `-> ENOENT`, `-> 0644`: what a disk answers; a step without it succeeds there, with whatever
answer; `-> ?`: it may fail there. What the disk answers to each step, jobfs has to answer too; or, after `-> ok | EPERM`, that.
A case that differs names the row of the table in vfs/semantics.md 8 that it proves, after ` = ` in its title.
`x*255` is 255 letters x, `{d/}*9` nine times d/, `\xff` a byte.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass

from tests.conformance.syscalls import USERS


@dataclass(frozen=True)
class Step:
    """One call, as written; `expected` is "" if any success will do, "?" if anything will; `here`: see above, or ""."""

    line: str
    user: str | None
    words: tuple[str, ...]
    expected: str
    here: str

    @classmethod
    def parse(cls, line: str) -> Step:
        """A step from its line; ValueError if it is none."""
        call, _, answers = line.partition("->")
        expected, _, here = answers.partition(" | ")
        words = [_word(word) for word in shlex.split(call.replace("\\x", "\\\\x"))]
        user = words.pop(0) if words[0] in USERS else None
        if len(words) > 2 and words[1] == "=":
            name, _, verb, *rest = words
            if verb == "open":
                rest += ["RDONLY", "0644"][len(rest) - 1 :]
            words = [verb, *rest, name]
        return cls(call.strip(), user, tuple(words), expected.strip(), here.strip())

    @property
    def gives_away(self) -> bool:
        """True if it is a `chown` that may change the owner or the group."""
        return self.words[0] == "chown" and self.words[2:] != ("-1", "-1")


@dataclass(frozen=True)
class Case:
    """`name` is group and title; `row`: see above, or ""."""

    group: str
    title: str
    steps: tuple[Step, ...]
    row: str = ""

    @property
    def name(self) -> str:
        """Names the case among all."""
        return f"{self.group}: {self.title}"

    @property
    def differs(self) -> bool:
        """True if a mount answers otherwise than a disk."""
        return any(step.here for step in self.steps)

    @property
    def needs_root(self) -> bool:
        """True if a step is of a named user, makes a device, or gives a file away."""
        return any(
            step.user is not None or step.words[0] == "mknod" or step.gives_away for step in self.steps
        )


def cases(group: str, text: str) -> list[Case]:
    """The cases in a text."""
    found: list[Case] = []
    title, row, steps = "", "", list[Step]()
    for line in [*text.splitlines(), "end"]:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] == " ":
            steps.append(Step.parse(line))
            continue
        if title:
            if not steps:
                raise ValueError(f"{title!r} has no steps")
            found.append(Case(group, title, tuple(steps), row))
        (title, _, row), steps = line.strip().partition(" = "), []
    return found


def _word(word: str) -> str:
    word = re.sub(r"(?:\{([^}]*)\}|(\w))\*(\d+)", lambda found: (found[1] or found[2]) * int(found[3]), word)
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), word.encode())
    return os.fsdecode(raw)
