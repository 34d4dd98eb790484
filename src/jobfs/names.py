"""The rules of names: hostile paths, hidden names of the save protocol, scratch names, conflict names.

Paths inside jobfs are relative to the workspace, `/`-separated, with no leading or trailing slash; the root is "".
"""

from __future__ import annotations

import fnmatch
import re
import secrets
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from posixpath import splitext
from typing import NamedTuple

#: Longest component in bytes of UTF-8 (vfs/semantics.md 1), longest path in `path_length`s (api/wire.md).
NAME_MAX = 255
PATH_MAX = 1024

#: The directory inside every mount that shows the mount's own state; an item of this name is not shown.
CONTROL_DIR = ".jobfs"

#: What editors and desktops leave beside a file (vfs/semantics.md 4).
SCRATCH = (
    ".*.sw?", "4913", "*~", ".#*", "#*#", ".goutputstream-*", ".~lock.*#", ".DS_Store", "._*", ".nfs*",
)  # fmt: skip

_BEFORE = r"\.jobfs-([0-9a-f]{12})-([0-9a-f]{16})-(staged|aside|removed|tried)-"
_HIDDEN = re.compile(_BEFORE + "(.+)", re.DOTALL)

_MOUNT_ID = re.compile(r"[0-9a-f]{12}")

#: Control characters, line and paragraph separators, characters that turn the direction of writing, and halves of characters.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)  # fmt: skip


#: A word that means itself in every shell: zsh expands `=ls`, and fish `%self`.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@+:,./-]+")
#: In `$'…'`: what needs no escape.
_NO_ESCAPE = re.compile(r"[A-Za-z0-9_@%+:,./= -]")


class Role(StrEnum):
    """Why an item is hidden: new content staged, an old item set aside, a directory being removed, an item of a try."""

    STAGED = "staged"
    ASIDE = "aside"
    REMOVED = "removed"
    TRIED = "tried"


class HiddenName(NamedTuple):
    """The parts of `.jobfs-<mount>-<transaction>-<role>-<name>` (save/protocol.md, Vocabulary)."""

    mount: str
    transaction: str
    role: Role
    name: str

    def __str__(self) -> str:
        return f".jobfs-{self.mount}-{self.transaction}-{self.role}-{self.name}"


def new_mount_id() -> str:
    """A fresh mount id, 12 hex digits."""
    return secrets.token_hex(6)


def is_mount_id(text: str) -> bool:
    """True if this may be a mount id."""
    return _MOUNT_ID.fullmatch(text) is not None


def new_transaction_id() -> str:
    """A fresh transaction id, 16 hex digits: never used before, here or elsewhere."""
    return secrets.token_hex(8)


def parent(path: str) -> str:
    """The directory that holds `path`; "" is the root."""
    return path.rpartition("/")[0]


def basename(path: str) -> str:
    """The last component."""
    return path.rpartition("/")[2]


def join(directory: str, name: str) -> str:
    """The path of `name` in `directory`."""
    return f"{directory}/{name}" if directory else name


def is_below(path: str, directory: str) -> bool:
    """True if `path` lies below `directory` (not if it is that directory)."""
    return path.startswith(directory + "/") if directory else bool(path)


def is_at_or_below(path: str, top: str) -> bool:
    """True if `path` is `top`, or lies below it."""
    return path == top or is_below(path, top)


def control_name(path: str) -> str | None:
    """The name below `.jobfs/` (vfs/semantics.md 6), "" for that directory itself, None for every other path."""
    if path == CONTROL_DIR:
        return ""
    return path.removeprefix(CONTROL_DIR + "/") if is_below(path, CONTROL_DIR) else None


def path_after_rename(path: str, old: str, new: str) -> str:
    """`path`, which is `old` or lies below it, after `old` was renamed to `new`."""
    return new + path[len(old) :]


def path_length(path: str) -> int:
    """How long the API takes a path to be: in units of UTF-16 (api/wire.md)."""
    return len(path) if path.isascii() else len(path.encode("utf-16-le", "surrogatepass")) // 2


def hostile_reason(path: str) -> str | None:
    """Why a server's path can't be shown (vfs/semantics.md 1), or None if it can."""
    if path_length(path) > PATH_MAX:
        return f"has over {PATH_MAX} characters"
    if "\0" in path:
        return "contains a NUL"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return f"has a component {part!r}"
        try:
            length = len(part.encode())
        except UnicodeEncodeError:
            return "is not valid Unicode"
        if length > NAME_MAX:
            return f"has a component over {NAME_MAX} bytes"
    return None


def parse_hidden_name(name: str) -> HiddenName | None:
    """The parts of a hidden name, or None: a name that merely begins with `.jobfs-` is that of an ordinary file."""
    match = _HIDDEN.fullmatch(name)
    if match is None:
        return None
    return HiddenName(match[1], match[2], Role(match[3]), match[4])


def replace_hidden_names(text: str) -> str:
    """The text with the names that people know in place of hidden ones."""
    return re.sub(_BEFORE, "", text)


def hidden_path(target: str, mount: str, transaction: str, role: Role) -> str:
    """A hidden path for `target`: beside it, its name cut to what fits; higher up if nothing fits there."""
    directory = parent(target)
    while True:
        prefix = join(directory, str(HiddenName(mount, transaction, role, "")))
        room = min(NAME_MAX - len(basename(prefix)), PATH_MAX - 1 - path_length(prefix))
        if room > 0 or not directory:
            return prefix + _truncate_name(basename(target), room)
        directory = parent(directory)


def describe_other_form(asked: str, shown: str) -> str:
    """A sentence on the other form in which a server keeps a path; "" if it is kept as asked, or `shown` is a path of its own.

    Two forms of a path differ only in composition, case or blanks at the end of a name (save/protocol.md R6). Hidden names of one
    transaction are forms of one name, whatever became of the rest.
    """
    if asked == shown or _fold_path(asked) != _fold_path(shown):
        return ""
    asked, shown = replace_hidden_names(asked), replace_hidden_names(shown)
    return f"the server keeps the name {asked!a} as {shown!a}: choose one that it keeps as it is"


def _fold_path(path: str) -> str:
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
    folded = "/".join(name.rstrip(" .") for name in composed.split("/"))
    hidden = parse_hidden_name(basename(folded))
    return folded if hidden is None else join(parent(folded), str(hidden._replace(name="")))


def second_version_path(target: str, label: str, when: datetime | None = None, attempt: int = 0) -> str:
    """`name.<label>-<UTC time>.ext` beside `target`: where a second version of a file is kept and shown."""
    stamp = (when or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    mark = f".{label}-{stamp}" + (f"-{attempt}" if attempt else "")
    directory, name = parent(target), basename(target)
    stem, ending = splitext(name)
    while directory and path_length(directory) + len(mark) + 8 > PATH_MAX:
        directory = parent(directory)
    room = min(NAME_MAX, PATH_MAX - 1 - path_length(directory) - 1) - len(mark)
    if len(ending.encode()) >= room:
        stem, ending = name, ""
    return join(directory, _truncate_name(stem, room - len(ending.encode())) + mark + ending)


_KEPT = re.compile(r"(.*)\.(conflict|recovered)-(\d{8}[Tt]\d{6}[Zz])(?:-(\d+))?(\.[^./]*)?", re.DOTALL)


def parse_second_version(path: str) -> tuple[str, str] | None:
    """The label that `second_version_path` gave a second version at this path, and the path of its file; None if it is an
    ordinary name.
    """
    match = _KEPT.fullmatch(path)
    return None if match is None else (match[2], match[1] + (match[5] or ""))


def second_version_order(path: str) -> tuple[str, int]:
    """The time in the name of a second version, and its number among those of one second: what orders them by age."""
    match = _KEPT.fullmatch(path)
    return ("", 0) if match is None else (match[3].upper(), int(match[4] or 0))


def is_scratch(name: str, extra: Iterable[str] = ()) -> bool:
    """True if a file of this name, made here, stays on this machine (vfs/semantics.md 4)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (*SCRATCH, *extra))


def escape_for_terminal(text: object, keep: str = "") -> str:
    """The text with every character that a terminal obeys, or can't encode, as `\\x1b` or `\\udc80`; `keep` stay."""
    return _UNSAFE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode("ascii"),
        str(text),
    )


def quote_for_shell(word: object) -> str:
    """Quote one word of a command that a person will paste into a shell: bash, zsh, dash or fish.

    The result is one line without any character that `escape_for_terminal` escapes; for those it needs `$'…'`, which fish
    refuses.
    """
    text = str(word)
    if _UNSAFE.search(text):
        return "$'" + "".join(map(_escape_character, text)) + "'"
    if _PLAIN_WORD.fullmatch(text):
        return text
    # Not by shlex.quote: between single quotes fish reads `\'` as a quote, so a name could end its word and begin a command.
    parts = re.findall(r"['\\]+|[^'\\]+", text) or [""]
    return "".join(f"'{part}'" if part[:1] not in "'\\" else _double_quote(part) for part in parts)


def _double_quote(part: str) -> str:
    """Quote what consists of single quotes and backslashes."""
    return '"' + part.replace("\\", "\\\\") + '"'


def _escape_character(character: str) -> str:
    if _NO_ESCAPE.match(character):
        return character
    # A byte that is not UTF-8 is a surrogate in a name of this machine; a server may send others, which no file has.
    byte = "\udc80" <= character <= "\udcff"
    return "".join(
        f"\\{each:03o}" for each in character.encode(errors="surrogateescape" if byte else "surrogatepass")
    )


def _truncate_name(name: str, room: int) -> str:
    """`name` cut to at most `room` bytes, never inside a character, never empty."""
    return name.encode()[: max(room, 1)].decode(errors="ignore") or "_"
