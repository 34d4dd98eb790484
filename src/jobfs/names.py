"""The rules for names: hostile paths, hidden names of the save protocol, scratch names, and names of second versions: those
that are kept beside a file, as conflict copies or as recovered bytes.

Paths inside jobfs are relative to the workspace and separated by `/`, with no leading or trailing slash; the root is "".
"""

from __future__ import annotations

import fnmatch
import re
import secrets
import unicodedata
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from posixpath import splitext
from typing import NamedTuple

#: The longest component, in bytes of UTF-8 (vfs/semantics.md 1); the longest path, by `path_length` (api/wire.md).
NAME_MAX = 255
PATH_MAX = 1024
#: The longest character, in bytes of UTF-8: a name that was cut lacks less than this to the longest.
_LONGEST_CHARACTER = 4

#: The directory in every mount that shows the mount's own state; an item of this name is not shown.
CONTROL_DIR = ".jobfs"

#: The patterns of scratch names: files that editors and desktops make beside a file (vfs/semantics.md 4.14).
SCRATCH = (
    ".*.sw?", "4913", "*~", ".#*", "#*#", ".goutputstream-*", ".~lock.*#", ".DS_Store", "._*", ".nfs*",
    "*___jb_tmp___", "*___jb_old___",
)  # fmt: skip

_BEFORE = r"\.jobfs-([0-9a-f]{12})-([0-9a-f]{16})-(staged|aside|removed|tried)-"
_HIDDEN = re.compile(_BEFORE + "(.+)", re.DOTALL)

_MOUNT_ID = re.compile(r"[0-9a-f]{12}")

#: Control characters, line and paragraph separators, characters that change the direction of writing, and surrogates.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)  # fmt: skip


#: A word that needs no quotes in any shell. It has no `=` or `%`, because zsh expands `=ls`, and fish `%self`.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@+:,./-]+")
#: A character that needs no escape in `$'…'`.
_NO_ESCAPE = re.compile(r"[A-Za-z0-9_@%+:,./= -]")


class Role(StrEnum):
    """Why an item is hidden: it is staged, set aside, a directory that is being removed, or made to try the server (`trial/`)."""

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
    """Return a new mount id, 12 hex digits."""
    return secrets.token_hex(6)


def is_mount_id(text: str) -> bool:
    """Return whether a text has the form of a mount id."""
    return _MOUNT_ID.fullmatch(text) is not None


def new_transaction_id() -> str:
    """Return a new transaction id: 16 random hex digits, which no other transaction has."""
    return secrets.token_hex(8)


def parent(path: str) -> str:
    """Return the path of the directory that holds `path`, "" for the root."""
    return path.rpartition("/")[0]


def basename(path: str) -> str:
    """Return the last component of a path."""
    return path.rpartition("/")[2]


def join(directory: str, name: str) -> str:
    """Return the path of `name` in `directory`."""
    return f"{directory}/{name}" if directory else name


def is_below(path: str, directory: str) -> bool:
    """Return whether `path` is below `directory`, and not that directory itself."""
    return path.startswith(directory + "/") if directory else bool(path)


def is_at_or_below(path: str, top: str) -> bool:
    """Return whether `path` is `top`, or below it."""
    return path == top or is_below(path, top)


def name_in_control_dir(path: str) -> str | None:
    """Return the part of a path below `.jobfs/` (vfs/semantics.md 6), "" for that directory itself, None for any other path."""
    if path == CONTROL_DIR:
        return ""
    return path.removeprefix(CONTROL_DIR + "/") if is_below(path, CONTROL_DIR) else None


def path_after_rename(path: str, old: str, new: str) -> str:
    """Return the new path of `path`, which is `old` or below it, after a rename of `old` to `new`."""
    return new + path[len(old) :]


def path_length(path: str) -> int:
    """Return the length of a path as the API counts it: in UTF-16 code units (api/wire.md)."""
    return len(path) if path.isascii() else len(path.encode("utf-16-le", "surrogatepass")) // 2


def hostile_reason(path: str) -> str | None:
    """Return why a path of the server can't be shown (vfs/semantics.md 1), None if it can."""
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
    """Return the parts of a hidden name, None for any other, even if it begins with `.jobfs-`."""
    match = _HIDDEN.fullmatch(name)
    if match is None:
        return None
    return HiddenName(match[1], match[2], Role(match[3]), match[4])


def replace_hidden_names(text: str) -> str:
    """Remove the prefix of each hidden name from a text, so that it has the names that people know."""
    return re.sub(_BEFORE, "", text)


def hidden_path(target: str, mount: str, transaction: str, role: Role) -> str:
    """Return a hidden path for `target`, with its name cut to what fits: beside it, or higher up if there is no room."""
    directory = parent(target)
    while True:
        prefix = join(directory, str(HiddenName(mount, transaction, role, "")))
        room = min(NAME_MAX - len(basename(prefix)), PATH_MAX - 1 - path_length(prefix))
        if room > 0 or not directory:
            return prefix + _truncate_name(basename(target), room)
        directory = parent(directory)


def describe_other_form(asked: str, shown: str) -> str:
    """Return a message if the server keeps the path `asked` in another form, `shown`; "" if they are equal, or different paths.

    Two forms of a path differ only in Unicode composition, in case, or in blanks and dots at the end of a name (save/protocol.md
    R6). Hidden names of one transaction are always forms of one name.
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
    """Return the path of a second version of the file `target`: `name.<label>-<UTC time>.ext` beside it.

    `when`: None for now. `attempt`: a number to append if the path is taken, 0 for none. A name that is too long is cut; if the
    path would be too long, it is in a higher directory.
    """
    stamp = (when or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    return _insert_mark(target, f".{label}-{stamp}" + (f"-{attempt}" if attempt else ""))


def _insert_mark(target: str, mark: str) -> str:
    """Return a path with `mark` before its ending, cut to what fits."""
    directory, name = parent(target), basename(target)
    stem, ending = splitext(name)
    while directory and path_length(directory) + len(mark) + 8 > PATH_MAX:
        directory = parent(directory)
    room = min(NAME_MAX, PATH_MAX - 1 - path_length(directory) - 1) - len(mark)
    if len(ending.encode()) >= room:
        stem, ending = name, ""
    return join(directory, _truncate_name(stem, room - len(ending.encode())) + mark + ending)


_KEPT = re.compile(
    r"(?P<stem>.*)(?P<mark>\.(?P<label>conflict|recovered)-(?P<time>\d{8}[Tt]\d{6}[Zz])(?:-(?P<number>\d+))?)(?P<ending>\.[^./]*)?",
    re.DOTALL,
)


def parse_second_version(path: str, known: Collection[str] = ()) -> tuple[str, str] | None:
    """Return the label in the path of a second version (`second_version_path`), and the path of its file; None for others.

    If the name may have been cut, its file is the only one of the paths `known` from which it can come.
    """
    match = _KEPT.fullmatch(path)
    if match is None:
        return None
    origin, mark = match["stem"] + (match["ending"] or ""), match["mark"]
    if len(basename(path).encode()) > NAME_MAX - _LONGEST_CHARACTER:
        near = (each for each in known if each.startswith(match["stem"]) and not _KEPT.fullmatch(each))
        found = [each for each in near if _insert_mark(each, mark) == path]
        origin = found[0] if len(found) == 1 else origin
    return match["label"], origin


def second_version_order(path: str) -> tuple[str, int]:
    """Return a key that sorts the paths of second versions by age: the time in the name, and the number behind it."""
    match = _KEPT.fullmatch(path)
    return ("", 0) if match is None else (match["time"].upper(), int(match["number"] or 0))


def is_scratch(name: str, extra: Iterable[str] = ()) -> bool:
    """Return whether a name is a scratch name, or matches a pattern in `extra` (vfs/semantics.md 4.14, 4.15)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (*SCRATCH, *extra))


def escape_for_terminal(text: object, keep: str = "") -> str:
    """Return a text in which each character that controls a terminal, or can't be encoded, is escaped: `\\x1b`, `\\udc80`.

    Characters in `keep` stay as they are.
    """
    return _UNSAFE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode("ascii"),
        str(text),
    )


def quote_for_shell(word: object) -> str:
    """Quote one word of a command that a person may paste into bash, zsh, dash or fish (vfs/semantics.md 6.16).

    The result is one line, without any character that `escape_for_terminal` escapes. A word with such a character becomes
    `$'…'`, which dash and fish do not know.
    """
    text = str(word)
    if _UNSAFE.search(text):
        return "$'" + "".join(map(_escape_character, text)) + "'"
    if _PLAIN_WORD.fullmatch(text):
        return text
    # shlex.quote would not do: between single quotes, fish reads `\'` as a quote, so a name could end the word.
    parts = re.findall(r"['\\]+|[^'\\]+", text) or [""]
    return "".join(f"'{part}'" if part[:1] not in "'\\" else _double_quote(part) for part in parts)


def _double_quote(part: str) -> str:
    """Quote a text that consists of single quotes and backslashes."""
    return '"' + part.replace("\\", "\\\\") + '"'


def _escape_character(character: str) -> str:
    if _NO_ESCAPE.match(character):
        return character
    # In a name of this machine, a surrogate stands for a byte that is not UTF-8. A server may send other surrogates.
    byte = "\udc80" <= character <= "\udcff"
    return "".join(
        f"\\{each:03o}" for each in character.encode(errors="surrogateescape" if byte else "surrogatepass")
    )


def _truncate_name(name: str, room: int) -> str:
    """Return a name cut to at most `room` bytes, never within a character and never empty."""
    return name.encode()[: max(room, 1)].decode(errors="ignore") or "_"
