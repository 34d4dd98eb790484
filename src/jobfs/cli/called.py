"""Calling jobfs as mount(8) does: by a link of a helper's name, or as `jobfs JOB DIR -o …` (semantics.md section 6).

mount.fuse.jobfs JOB DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

#: Names by which mount(8) calls what mounts the types fuse.jobfs and jobfs.
HELPERS = ("mount.fuse.jobfs", "mount.jobfs")
#: Options of mount(8) itself, with those that take a value, and the one that asks for nothing to be done.
_FLAGS, _VALUED, _FAKE = "sfnv", "Nt", "f"


def is_helper(called: str) -> bool:
    """True if mount(8) calls this program by such a link."""
    return os.path.basename(called) in HELPERS


def mount_words(arguments: Sequence[str]) -> list[str] | None:
    """The words of `jobfs mount` for what mount(8) calls its helper with; None if it wants nothing to be done (`mount -f`).

    What begins with an option is a person's: `--help`, `--version`.
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    words, rest, fake = ["mount"], iter(arguments), False
    for word in rest:
        if word == "-o":
            words += ["-o", next(rest, "")]
        elif word.startswith("-") and not word.startswith("--") and word[1:2] in _VALUED:
            if len(word) == 2:
                next(rest, "")
        elif word.startswith("-") and set(word[1:]) <= set(_FLAGS) and word != "-":
            fake = fake or _FAKE in word
        else:
            words.append(word)
    return None if fake else words
