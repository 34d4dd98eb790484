"""What differs from a local disk, and why: each case that a mount answers otherwise, and the reason.

A case listed here must differ exactly like that, a case not listed must not differ at all. README.md shows the table that
`python -m tests.conformance.differences` prints.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A case, and the steps at which the answers differ: each step, the disk's answer, the mount's."""

    case: str
    answers: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Row:
    """One row of the table: what a program does, what a disk answers and what jobfs, and why. `cases` prove it."""

    what: str
    disk: str
    here: str
    reason: str
    cases: tuple[Difference, ...]


ROWS = [
    Row(
        "`symlink`",
        "makes a link",
        "EPERM, but at scratch names, which it can not leave; with `--local-symlinks` as on a disk, but the job never sees it",
        "the API has files and directories, and nothing else",
        (
            Difference(
                "kinds: a symbolic link",
                (
                    ("symlink f l", "ok", "EPERM"),
                    ("readlink l", "f", "ENOENT"),
                    ("get l", "b'text'", "ENOENT"),
                ),
            ),
            Difference(
                "scratch: a symbolic link is renamed to a name that does not stay here",
                (("rename .#f g", "ok", "EPERM"), ("readlink g", "none", "ENOENT")),
            ),
        ),
    ),
    Row(
        "`link`",
        "a second name for a file",
        "EPERM",
        "an item of the API has one path",
        (
            Difference(
                "kinds: a hard link",
                (
                    ("link f g", "ok", "EPERM"),
                    ("same f g", "same", "ENOENT"),
                    ("stat f nlink", "2", "1"),
                ),
            ),
        ),
    ),
    Row(
        "`mkfifo`, `mknod` of a device or socket",
        "makes it",
        "EPERM",
        "the API has files and directories, and nothing else",
        (
            Difference(
                "kinds: a named pipe",
                (("mkfifo p 0644", "ok", "EPERM"), ("stat p type mode", "p 0644", "ENOENT")),
            ),
            Difference(
                "kinds: a device",
                (
                    ("mknod c CHR 0644", "ok", "EPERM"),
                    ("stat c type", "c", "ENOENT"),
                    ("mknod b BLK 0644", "ok", "EPERM"),
                    ("stat b type", "b", "ENOENT"),
                ),
            ),
            Difference(
                "kinds: a socket",
                (("mknod s SOCK 0644", "ok", "EPERM"), ("stat s type", "s", "ENOENT")),
            ),
        ),
    ),
    Row(
        "a name that is not UTF-8",
        "any bytes",
        "EILSEQ",
        "the API's paths are JSON strings",
        (
            Difference(
                "names: bytes that are no UTF-8",
                ((r"create \xff 0644 text", "ok", "EILSEQ"), (r"get \xff", "b'text'", "EILSEQ")),
            ),
        ),
    ),
    Row(
        "a path of more than 1,023 characters, counted from the workspace; one beyond U+FFFF, as an emoji, is two",
        "4,095 bytes, and any length below the working directory",
        "ENAMETOOLONG",
        "the API's paths have at most 1,024 units of UTF-16, with a slash before them",
        (
            Difference(
                "names: a path of more than 1024 characters",
                (("create y*100 0644 text", "ok", "ENAMETOOLONG"), ("get y*100", "b'text'", "ENAMETOOLONG")),
            ),
        ),
    ),
    Row(
        "making `.jobfs-<12 hex digits>-<16 hex digits>-<staged, aside, removed or tried>-…`",
        "a name as any other",
        "EPERM",
        "saves under way have such names on the server, and no mount shows them",
        (
            Difference(
                "names: a name of the form that saves under way have",
                (
                    ("create .jobfs-0123456789ab-0123456789abcdef-staged-f", "ok", "EPERM"),
                    ("mkdir .jobfs-0123456789ab-0123456789abcdef-aside-f", "ok", "EPERM"),
                    ("rename f .jobfs-0123456789ab-0123456789abcdef-aside-g", "ok", "EPERM"),
                ),
            ),
        ),
    ),
    Row(
        "making `.jobfs` at the top of the workspace",
        "a name as any other",
        "EEXIST",
        "the mount shows its own state there",
        (
            Difference(
                "names: the name of the control directory, at the top",
                (
                    ("mkdir ../.jobfs", "ok", "EEXIST"),
                    ("create ../.jobfs/f", "ok", "EPERM"),
                    ("unlink ../.jobfs/f", "ok", "ENOENT"),
                    ("rmdir ../.jobfs", "ok", "EPERM"),
                ),
            ),
        ),
    ),
    Row(
        "root writes to a file, or makes or removes something in a directory, after `chmod u-w`",
        "allowed",
        "EACCES until `chmod u+w`",
        "the item is readOnly in the API then, which is meant for everybody",
        (
            Difference(
                "chmod: root writes whatever the mode",
                (
                    ("a = open f WRONLY", "ok", "EACCES"),
                    ("open f RDONLY|TRUNC", "ok", "EACCES"),
                    ("truncate f 0", "ok", "EACCES"),
                    ("stat f size", "0", "4"),
                ),
            ),
            Difference(
                "chmod: root makes and removes whatever the mode of the directory",
                (
                    ("create d/g", "ok", "EACCES"),
                    ("mkdir d/e", "ok", "EACCES"),
                    ("unlink d/f", "ok", "EACCES"),
                    ("rename d/g d/h", "ok", "ENOENT"),
                    ("ls d", "e h", "f"),
                ),
            ),
        ),
    ),
    Row(
        "`rename` of a directory between a scratch name and another one, or of a file into a directory of a scratch name",
        "does it",
        "EXDEV; `mv` copies then",
        "what has a scratch name is on this machine, everything else on the server",
        (
            Difference(
                "scratch: a directory of the workspace becomes a local one", (("rename d d~", "ok", "EXDEV"),)
            ),
            Difference(
                "scratch: a local directory becomes one of the workspace", (("rename d~ d", "ok", "EXDEV"),)
            ),
            Difference(
                "scratch: a file of the workspace moves into a local directory",
                (("rename f d~/f", "ok", "EXDEV"),),
            ),
        ),
    ),
    Row(
        "`renameat2` with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`",
        "does it",
        "EINVAL; `mv -n` and others go on without",
        "the API has no request that says “only if free”, and libfuse 2 does not pass the flags on",
        (
            Difference(
                "rename: with the flag that a name must be free",
                (("rename_noreplace a c", "ok", "EINVAL"), ("ls", "b c", "a b")),
            ),
            Difference(
                "rename: with the flag that two names change places",
                (("rename_exchange a b", "ok", "EINVAL"), ("get a", "b'two'", "b'one'")),
            ),
        ),
    ),
    Row(
        "`fallocate`",
        "sets room aside",
        "EOPNOTSUPP; `posix_fallocate` writes zeroes instead",
        "the server can't be asked for room, and libfuse 2 does not pass it on",
        (
            Difference(
                "open: room is set aside",
                (("fallocate a 0 1000", "ok", "ENOTSUP"), ("stat f size", "1000", "0")),
            ),
        ),
    ),
    Row(
        "holes: `SEEK_HOLE`, `SEEK_DATA`",
        "tell where nothing was written",
        "a file is all data",
        "the API sends and keeps every byte",
        (
            Difference(
                "open: a file that was not written has a hole",
                (("seek a 0 HOLE", "0", "1048576"), ("seek a 0 DATA", "ENXIO", "0")),
            ),
        ),
    ),
    Row(
        "`open` with `O_TMPFILE`",
        "an unnamed file",
        "EOPNOTSUPP; `tempfile` and others make a named one",
        "libfuse 2 does not pass it on",
        (
            Difference(
                "open: an unnamed temporary file",
                (("open . TMPFILE|RDWR 0600", "ok", "ENOTSUP"),),
            ),
        ),
    ),
    Row(
        "a removed directory, to who is still in it or has it open",
        "is empty, and its attributes can be asked for and changed",
        "ENOENT or ESTALE",
        "libfuse 2 passes on what has a path",
        (
            Difference(
                "rmdir: what a removed directory answers to who is in it, or has it open",
                (
                    ("stat . nlink", "0", "ENOENT"),
                    ("stat h nlink", "0", "ESTALE"),
                    ("ls", "(empty)", "ENOENT"),
                    ("chmod . 0700", "ok", "ENOENT"),
                    ("utimens . 1 2", "ok", "ENOENT"),
                    ("statvfs namemax", "255", "ENOENT"),
                ),
            ),
        ),
    ),
    Row(
        "`chown` that changes neither owner nor group",
        "moves the change time",
        "nothing",
        "the kernel does not tell a FUSE file system of it",
        (Difference("chown: -1 for both moves the change time", (("moved f", "ctime", "nothing"),)),),
    ),
    Row(
        "extended attributes",
        "kept",
        "EOPNOTSUPP",
        "the API has no place for them; `jobfs info` shows what it knows",
        (Difference("open: an attribute of its own name", (("setxattr f user.a b", "ok", "ENOTSUP"),)),),
    ),
]

DIFFERENCES = {difference.case: difference for row in ROWS for difference in row.cases}


def table() -> str:
    """The rows as a markdown table."""
    head = ["| what | on a disk | here | because |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| {r.what} | {r.disk} | {r.here} | {r.reason} |" for r in ROWS)])


if __name__ == "__main__":
    print(table())
