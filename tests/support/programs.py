"""Programs that read and write a file, as data: one table for every test that runs one, by itself or beside the job.

`PROGRAMS` has a line for each. A test picks lines by what they do: `[each for each in PROGRAMS if each.reads and each.replaces]`.
A line runs in two ways: `Program.command` is a process, for a mount; `save_by` makes its calls one by one, through a Vfs
(`run_through`) or as system calls that a harness observes.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from jobfs.names import basename, join, parent

from .mounts import environment
from .waiting import Gate, eventually
from .workspaces import CALLER, Workspace

#: The flags with which programs open a file.
READ, REPLACE, APPEND, WRITE, BOTH = (
    os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_APPEND, os.O_WRONLY, os.O_RDWR,
)  # fmt: skip
#: More programs than the notes that one program, or one file, may have (vfs/semantics.md 4.46).
_CROWD = 1010
#: More processes than Python's recursion may be deep.
_DEPTH = 600


@dataclass(frozen=True)
class Program:
    """A command that works on one file.

    A program that writes adds lines to the file, and prints each of them once its `close` has returned. One that does not write
    prints the file's content. A program that reads the file and then replaces it writes back all that it has read; in between, it
    runs the `wait` of `command`.
    """

    name: str
    words: tuple[str, ...]
    #: Of the `open` that changes the file; `READ` if none does.
    flags: int
    #: It reads the file before it writes it.
    reads: bool = False
    #: It relies on the size that `fstat`, or a seek to the end, shows.
    by_size: bool = False
    #: It writes another file, and renames that over this one: the pattern of the other name.
    draft: str = ""
    #: It renames the file to a backup before the new one has its name: the pattern of that name; it unlinks or keeps the backup.
    backup: str = ""
    keeps_backup: bool = False
    #: It syncs, by one handle after each of so many writes: once it has ended, the server has its line.
    syncs: int = 0
    #: By itself it loses no line: where a call fails, or the job writes between two of its calls.
    reliable: bool = True
    #: It removes what it finds at the file's name, read or not; or it truncates that by a handle that may have read it (4.42).
    discards: bool = False
    #: It takes no notice of an error of its `close`, as a shell does: with the mount killed, what it acknowledges may be lost.
    closes_blindly: bool = False
    #: It ends before it has saved; its output ends afterwards.
    detaches: bool = False
    #: It has a file of the mount open while it waits.
    keeps_open: bool = False
    #: It takes a second or more.
    slow: bool = False
    #: A command that it needs, besides bash, Python, sed and what every system has.
    needs: str = ""
    #: The most lines that it takes.
    lines: int = 1

    @property
    def writes(self) -> bool:
        """True if it changes the file."""
        return self.flags != READ

    @property
    def by_rename(self) -> bool:
        """True if it renames another file over this one."""
        return bool(self.draft)

    @property
    def replaces(self) -> bool:
        """True if it gives the file new content as a whole, without the old bytes."""
        return self.by_rename or bool(self.flags & os.O_TRUNC)

    @property
    def rewrites(self) -> bool:
        """True if it writes the whole content; False if it only adds its line at the end."""
        return self.replaces or self.reads

    @property
    def way(self) -> tuple[object, ...]:
        """Return what `save_by` makes of it: programs with equal values make the same calls."""
        return self.flags, self.reads, self.draft, self.backup, self.keeps_backup, self.syncs

    def command(
        self, path: Path, *lines: str, wait: str = ":", scratch: Path = Path("/dev/null")
    ) -> list[str]:
        """Return the command that works on `path`.

        `wait`: what a shell does where the program waits. `scratch`: the path of a file of its own, outside of the mount.
        """
        variables = {
            "f": path, "line": "".join(lines[:1]), "lines": "\n".join(lines), "wait": wait, "tmp": scratch,
        }  # fmt: skip
        return ["env", *[f"{name}={value}" for name, value in variables.items()], *self.words]


def needs_all(programs: Iterable[Program]) -> pytest.MarkDecorator:
    """Return the marker of a test that runs these programs."""
    return pytest.mark.needs_program(*{each.needs for each in programs if each.needs})


def program(name: str) -> Program:
    """Return the program of that name."""
    (found,) = (each for each in PROGRAMS if each.name == name)
    return found


@contextmanager
def paused(
    home: Path, desk: Path, programs: Mapping[Path, Program], line: str = ""
) -> Iterator[dict[Path, bytes]]:
    """Run programs, by their files, until each waits; let all of them continue after the block, and wait for their ends.

    Yields their outputs, which are there after the block. Raises AssertionError if one fails, or does not acknowledge its line.
    """
    running, outputs = dict[Path, subprocess.Popen[bytes]](), dict[Path, bytes]()
    ready = {path: desk / f"{path.name}.ready" for path in programs}
    gate = Gate(desk / "go")
    try:
        for path, one in programs.items():
            wait = f"touch {ready[path]}; {gate.wait}"
            running[path] = subprocess.Popen(
                one.command(path, line, wait=wait, scratch=desk / f"{path.name}.scratch"), cwd=desk,
                env=environment(home, None), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        for path, one in programs.items():
            eventually(ready[path].exists, f"{one.name} to wait", timeout=60)
        yield outputs
        gate.open()
        for path, process in running.items():
            # An editor may ask whether to write over what has changed.
            outputs[path], code = process.communicate(b"y\n", timeout=30)[0], process.returncode
            assert not code, f"{programs[path].name}: {code}, {outputs[path]!r}"
            assert line.encode() in outputs[path], programs[path].name
    finally:
        gate.open()  # for a daemon, which has a session of its own
        for process in running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        gate.close()


def distinct(programs: Iterable[Program]) -> dict[str, Program]:
    """Return one of the programs for each way to run them through a Vfs, by a name of that way."""
    modes = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "read and write"}
    kinds = {"truncate": os.O_TRUNC, "append": os.O_APPEND}
    found = dict[str, Program]()
    for each in programs:
        how = [modes[each.flags & os.O_ACCMODE], *[name for name, flag in kinds.items() if each.flags & flag]]
        found[", ".join([*how, *["rename"] * each.by_rename])] = each
    return found


class Calls(Protocol):
    """The calls that programs save by; `read_whole` reads an open file from its start."""

    def open(self, path: str, flags: int) -> int: ...
    def read_whole(self, fh: int) -> bytes: ...
    def size(self, fh: int) -> int: ...
    def write(self, fh: int, data: bytes, offset: int) -> object: ...
    def truncate(self, fh: int, size: int) -> object: ...
    def fsync(self, fh: int) -> object: ...
    def close(self, fh: int) -> object: ...
    def rename(self, old: str, new: str) -> object: ...
    def unlink(self, path: str) -> object: ...


def save_by(calls: Calls, one: Program, path: str, make: Callable[[bytes], bytes]) -> None:
    """Save a file by the calls of a program. Raises what `calls` raise.

    `make` is given what the program has read, and returns the new content; of a program that adds a line, only the line.
    """
    target, backup, text = beside(one.draft, path), beside(one.backup, path), b""
    if one.reads and one.replaces:
        with opened(calls, path, READ) as fh:
            text = calls.read_whole(fh)
    if one.backup and not one.draft:
        calls.rename(path, backup)
    with opened(calls, target, one.flags) as fh:
        if one.reads and not one.replaces:
            text = calls.read_whole(fh)
        _write_by(calls, one, fh, lambda: make(text))
    if one.backup and one.draft:
        calls.rename(path, backup)
    if one.draft:
        calls.rename(target, path)
    if one.backup and not one.keeps_backup:
        calls.unlink(backup)


def _write_by(calls: Calls, one: Program, fh: int, make: Callable[[], bytes]) -> None:
    for _ in range(one.syncs or 1):
        data = make()
        calls.write(fh, data, 0 if one.rewrites else calls.size(fh))
        if one.rewrites and (one.syncs > 1 or not one.replaces):
            calls.truncate(fh, len(data))
        if one.syncs:
            calls.fsync(fh)


def beside(pattern: str, path: str) -> str:
    """Return a path in the directory of `path`; without a pattern, `path`."""
    return join(parent(path), (pattern or "{}").format(basename(path)))


@contextmanager
def opened(calls: Calls, path: str, flags: int) -> Iterator[int]:
    """Open a file by these calls, and close it after the block. Raises what `calls` raise."""
    fh = calls.open(path, flags)
    try:
        yield fh
    finally:
        calls.close(fh)


class VfsCalls:
    """The calls of a program on this machine, through a Vfs. They raise FsError and ApiError."""

    def __init__(self, work: Workspace) -> None:
        self._work, self._vfs = work, work.vfs

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_CREAT and not self._work.exists(path):
            return self._vfs.create(path, 0o644, flags, CALLER).fh
        return self._work.open(path, flags & ~os.O_CREAT)

    def read_whole(self, fh: int) -> bytes:
        return self._vfs.read(fh, self.size(fh), 0)

    def size(self, fh: int) -> int:
        return self._vfs.fgetattr(fh).size

    def write(self, fh: int, data: bytes, offset: int) -> None:
        self._vfs.write(fh, data, offset)

    def truncate(self, fh: int, size: int) -> None:
        self._vfs.ftruncate(fh, size)

    def fsync(self, fh: int) -> None:
        self._vfs.fsync(fh)

    def close(self, fh: int) -> None:
        with self._work.closing(fh):
            pass

    def rename(self, old: str, new: str) -> None:
        self._vfs.rename(old, new)

    def unlink(self, path: str) -> None:
        self._vfs.unlink(path)


def run_through(work: Workspace, one: Program, path: str, line: bytes) -> None:
    """Add a line to a file as the program does, through a Vfs. Raises FsError, ApiError."""
    save_by(VfsCalls(work), one, path, lambda text: text + line)


_PYTHON = """
import mmap, os, sys
name, line = os.environ["f"], os.environb[b"line"] + b"\\n"
def read():
    with open(name, "rb") as file:
        return file.read()
def wait():
    os.system(os.environ["wait"])
def save(text, name=name, flags="wb", sync=False):
    with open(name, flags) as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
"""
_BASH = 'set -eo pipefail\nack() { printf "%s\\n" "$1"; }\nWAIT() { eval "$wait"; }\n'


def _python(name: str, flags: int, *script: str, **facts: Any) -> Program:
    end = "os.write(1, line)" if flags != READ else ""
    return Program(name, (sys.executable, "-IS", "-c", "\n".join((_PYTHON, *script, end))), flags, **facts)


def _bash(name: str, flags: int, script: str, **facts: Any) -> Program:
    """Return a program of bash; with several `lines` it acknowledges each by itself."""
    end = 'ack "$line"' if flags != READ and "lines" not in facts else ""
    return Program(
        name, ("bash", "-c", f"{_BASH}{script}\n{end}"), flags, **{"closes_blindly": True, **facts}
    )


def _edits(name: str, *script: str, **facts: Any) -> Program:
    """Return a program of Python that replaces what it reads."""
    return _python(name, REPLACE, *script, reads=True, **facts)


def _rewrites(name: str, script: str, **facts: Any) -> Program:
    """Return a program of bash that replaces what it reads."""
    return _bash(name, REPLACE, script, reads=True, **facts)


def _editor(name: str, *words: str, **facts: Any) -> Program:
    """Return an editor that does not acknowledge anything, below a shell that does."""
    script = '"$@" && printf "%s\\n" "$line"'
    return Program(name, ("bash", "-c", script, "bash", *words), REPLACE, reads=True, reliable=False, **facts)


def _vim(name: str, vim: str = "vim", *options: str, **facts: Any) -> Program:
    start = ["vim", "-u", "NONE", "-N", "-es"] if vim == "vim" else [vim, "-u", "NONE", "--headless"]
    settings = ["noautoread", "backupskip=", "backupdir=.", "directory=.", *options]
    # A person would answer that the text stays.
    keep = "autocmd FileChangedShell * let v:fcs_choice = ''"
    edit = ["edit $f", "call append('$', $line)", "call system($wait)", "wq!"]
    return _editor(
        name, *start, "--cmd", "set " + " ".join(settings), "--cmd", keep,
        *[word for command in edit for word in ("-c", command)], needs=vim, keeps_open="noswapfile" not in options,
        **facts,
    )  # fmt: skip


_EMACS = """(progn
  (find-file (getenv "f"))
  (goto-char (point-max))
  (insert (getenv "line") "\\n")
  (let ((default-directory "/")) (call-process "sh" nil nil nil "-c" (getenv "wait")))
  (fset 'yes-or-no-p (lambda (&rest _) t))
  (save-buffer))"""
_NODE = """
const fs = require("fs"), {execSync} = require("child_process"), {f, line, wait} = process.env;
const text = fs.readFileSync(f) + line + "\\n";
execSync(wait);
fs.promises.open(f, "w").then(file => file.writeFile(text).then(() => file.close()));
"""
_SPONGE = 'import sys; text = sys.stdin.read(); open(sys.argv[1], "w").write(text)'
_PYTHON_HERE = shlex.quote(sys.executable)

_EDIT = "text = read(); wait(); save(text + line)"
_RENAMED = "text = read(); wait(); draft = %s; save(text + line, draft, sync=True); os.rename(draft, name)"
_CAT = """
import subprocess
def cat():
    done = subprocess.run(["cat", name], stdout=subprocess.PIPE)
    return done.stdout if not done.returncode else sys.exit(1)
"""
#: Runs what follows in a process below process 1.
_DAEMON = """
import time
for _ in range(2):
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    os.setsid()
while os.getppid() == parent:
    time.sleep(0.01)
"""
#: An editor, and others that read the file between its read and its save.
_CROWDED = f"""
mkfifo "$tmp"
{{ mapfile text <"$f"; WAIT; : >"$tmp"; : <"$tmp"; printf "%s" "${{text[@]}}" "$line"$'\n' >"$f"; }} &
: <"$tmp"; for reader in {{1..{_CROWD}}}; do (mapfile <"$f"); done; : >"$tmp"; wait $!
"""
#: Reads the file below many other programs.
_DEEP = f"""
export deep='if [ $n = 0 ]; then cat "$f"; else n=$((n - 1)) sh -c "$deep"; exit; fi' n={_DEPTH}
text=$(sh -c "$deep"); WAIT; printf "%s\\n%s\\n" "$text" "$line" >"$f"
"""
#: Copies pages here and there to their places in a file of its own, waits after ten of them, and prints the copy.
_HERE_AND_THERE = """
import random
fd, own = os.open(name, os.O_RDONLY), os.open(os.environ["tmp"], os.O_RDWR | os.O_CREAT)
size = os.fstat(fd).st_size
%s
places = [*range(0, size, 4096)]
for number, place in enumerate(random.Random(1).sample(places, len(places)), 1):
    os.pwrite(own, read(place), place)
    if number == 10:
        wait()
os.write(1, os.pread(own, size, 0))
"""
#: Looks at the file until its wait is over; a byte in a file of its own after each look.
_AGAIN_AND_AGAIN = """
import subprocess
waiting, looks = subprocess.Popen(os.environ["wait"], shell=True), open(os.environ["tmp"], "ab", buffering=0)
while True:
    over = waiting.poll() is not None
    os.stat(name).st_size or sys.exit("empty")
    text = read()
    text.endswith(b"\\n") or sys.exit("torn")
    looks.write(b".")
    if over:
        break
os.write(1, text)
"""
_AT_END = "os.pwrite(fd, line, os.fstat(fd).st_size); os.close(fd)"
_GROWN = "size = os.fstat(fd).st_size; os.ftruncate(fd, size + len(line))"
_BY_FSTAT = "os.write(1, os.read(fd, os.fstat(fd).st_size))"
_BY_PROC = "path = os.open(name, os.O_PATH); fd = os.open(f'/proc/self/fd/{path}', %s)"
#: dd, which writes the line at an offset; the offset is that of a file which is open already, or of a name.
_DD = 'printf "%s\\n" "$line" | dd bs=64K iflag=fullblock conv=notrunc status=none'

PROGRAMS = [
    # This one replaces the file without reading it.
    _bash(">", REPLACE, 'printf "%s\\n" "$line" >"$f"', reliable=False),
    # These read the file, wait, and replace it with what they have read and a line.
    _edits("python", _EDIT),
    _edits("python, synced", "text = read(); wait(); save(text + line, sync=True)", syncs=1),
    _edits("python, by a rename", _RENAMED % "name + '.draft'", draft="{}.draft", syncs=1),
    _edits(
        "python, synced twice", "text = read(); wait()", "with open(name, 'wb') as file:", " for text in (text, text + line):",
        "  file.seek(0); file.write(text); file.truncate(); os.fsync(file.fileno())", syncs=2,
    ),
    _edits(
        "python, a thread reads", "import threading", "texts = []",
        "thread = threading.Thread(target=lambda: texts.append(read())); thread.start(); thread.join()",
        "texts or sys.exit(1)", "wait(); save(texts[0] + line)",
    ),
    _edits(
        "python, by a map", "with open(name, 'rb') as file:\n text = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:]",
        "wait(); save(text + line)", by_size=True, reliable=False,
    ),
    _edits("python, a child reads", _CAT, "text = cat(); wait(); save(text + line)"),
    _edits("python, its child reads a newer version", _CAT, "text = read(); wait(); cat(); save(text + line)"),
    _edits("python, after a fork", "text = read()", "if os.fork():", " sys.exit(os.wait()[1] >> 8)", "wait(); save(text + line)"),
    _edits("python, a daemon", "text = read()", _DAEMON, "wait(); save(text + line)", detaches=True),
    _edits("python, a daemon reads", _DAEMON, _EDIT, detaches=True),
    _edits("python, truncate", "text = read(); wait(); os.truncate(name, 0); save(text + line, flags='ab')", reliable=False),
    _edits(
        "python, ftruncate", "text = read(); wait(); fd = os.open(name, os.O_WRONLY); os.ftruncate(fd, 0)",
        "os.write(fd, text + line); os.fsync(fd); os.close(fd)", syncs=1,
    ),
    _edits(
        "LibreOffice", "lock = os.path.dirname(name) + '/.~lock.notes#'; text = read(); wait(); save(b'me', lock)",
        "with open(name, 'r+b') as file:\n file.truncate(0); file.write(text + line); file.flush(); os.fsync(file.fileno())",
        "os.unlink(lock)", syncs=1, discards=True, reliable=False,
    ),
    _edits(
        "GNOME", _RENAMED % "os.path.dirname(name) + '/.goutputstream-ABC123'", draft=".goutputstream-{}", reliable=False
    ),
    _edits(
        "JetBrains", "text = read(); wait(); save(text + line, name + '___jb_tmp___', sync=True)",
        "os.rename(name, name + '___jb_old___'); os.rename(name + '___jb_tmp___', name); os.unlink(name + '___jb_old___')",
        draft="{}___jb_tmp___", backup="{}___jb_old___", reliable=False,
    ),
    _rewrites(
        "shell",
        'while IFS= read -r line; do\n'
        ' text=$(cat "$f"); WAIT; printf "%s\\n%s\\n" "$text" "$line" >"$f"; ack "$line"\ndone <<<"$lines"', lines=4,
    ),
    _rewrites("shell, built in", 'text=$(<"$f"); WAIT; printf "%s\\n%s\\n" "$text" "$line" >"$f"', reliable=False),
    _rewrites(
        "shell, line by line",
        'while IFS= read -r one; do text+=$one$\'\\n\'; done <"$f"; WAIT; printf "%s%s\\n" "$text" "$line" >"$f"', reliable=False,
    ),
    _rewrites("shell, deep", _DEEP, slow=True),
    _rewrites("shell, others read", _CROWDED, slow=True),
    _rewrites(
        "jq and mv", 'jq -Rsj --arg line "$line" \'. + $line + "\\n"\' "$f" >"$f.draft"; WAIT; mv "$f.draft" "$f"',
        draft="{}.draft", needs="jq",
    ),
    _rewrites("cp and back", 'cp "$f" "$tmp"; printf "%s\\n" "$line" >>"$tmp"; WAIT; cp "$tmp" "$f"', reliable=False),
    _rewrites(
        "one command after another",
        'text=$(bash -c \'cat "$f"\'); WAIT; printf "%s\\n%s\\n" "$text" "$line" | setsid -w bash -c \'cat >"$f"\'',
    ),
    _rewrites(
        "sponge", f'{{ cat "$f"; WAIT; printf "%s\\n" "$line"; }} | {_PYTHON_HERE} -c \'{_SPONGE}\' "$f"', reliable=False
    ),
    _rewrites("sed -i", 'sed -i -e \'1e eval "$wait"\' -e "1i $line" "$f"', draft="sed{}", keeps_open=True),
    _rewrites(
        "perl -pi", 'perl -pi -e \'if ($. == 1) {system($ENV{wait}); print "$ENV{line}\\n"}\' "$f"', draft="{}.tmp",
        reliable=False, needs="perl", keeps_open=True,
    ),
    _rewrites(
        "sort -o", 'mkfifo "$tmp"; { WAIT; printf "%s\\n" "$line"; } >"$tmp" & sort -o "$f" "$f" "$tmp"; wait', reliable=False,
        keeps_open=True,
    ),
    _rewrites("ed", 'printf \'!eval "$wait"\\n$a\\n%s\\n.\\nw\\nq\\n\' "$line" | ed -s "$f"', reliable=False, needs="ed"),
    _vim("vim", "vim", "writebackup", backup="{}~", syncs=1),
    _vim("vim, backup by a copy", "vim", "writebackup", "backup", "backupcopy=yes"),
    _vim(
        "vim, backup by a rename", "vim", "writebackup", "backup", "backupcopy=no", backup="{}~", keeps_backup=True
    ),
    _vim("vim, no backup", "vim", "nowritebackup", "nobackup"),
    _vim("vim, no swap file", "vim", "noswapfile"),
    _vim("nvim", "nvim"),
    _editor("emacs", "emacs", "-Q", "--batch", "--eval", _EMACS, needs="emacs"),
    _editor("node, as VS Code does", "node", "-e", _NODE, needs="node"),
    # This one writes all of the file again, in place.
    _python(
        "r+, rewritten", BOTH, "with open(name, 'r+b') as file:",
        " text = file.read(); wait(); file.seek(0); file.write(text + line); file.truncate()", reads=True,
    ),
    # These write a line at the end.
    _python("r+, seek to the end", BOTH, "with open(name, 'r+b') as file:\n file.seek(0, 2); file.write(line)", by_size=True),
    _python(
        "r+, seek, fsync", BOTH,
        "with open(name, 'r+b') as file:\n file.seek(0, 2); file.write(line); file.flush(); os.fsync(file.fileno())",
        by_size=True, syncs=1,
    ),
    _python(
        "O_WRONLY, lseek", WRITE, "fd = os.open(name, os.O_WRONLY); os.lseek(fd, 0, 2); os.write(fd, line); os.close(fd)",
        by_size=True,
    ),
    _python("O_WRONLY, fstat", WRITE, "fd = os.open(name, os.O_WRONLY)", _AT_END, by_size=True),
    _python("O_RDWR, fstat", BOTH, "fd = os.open(name, os.O_RDWR)", _AT_END, by_size=True),
    _python(
        "O_RDWR and O_CREAT", BOTH | os.O_CREAT, "fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)", _AT_END, by_size=True
    ),
    _python(
        "ftruncate, longer", BOTH, "fd = os.open(name, os.O_RDWR)", _GROWN, "os.pwrite(fd, line, size); os.close(fd)",
        by_size=True,
    ),
    _python(
        "ftruncate, to what was written", WRITE, "fd = os.open(name, os.O_WRONLY)", "size = os.lseek(fd, 0, 2)",
        "os.write(fd, line); os.ftruncate(fd, size + len(line)); os.close(fd)", by_size=True,
    ),
    _python(
        "a shared mapping", BOTH, "fd = os.open(name, os.O_RDWR)", _GROWN,
        "with mmap.mmap(fd, 0) as pages:\n pages[size:] = line; pages.flush()", "os.close(fd)", by_size=True,
    ),
    _python("by an O_PATH descriptor", BOTH, _BY_PROC % "os.O_RDWR", _AT_END, by_size=True),
    _python(
        "two threads at once", BOTH, "import threading", "fds = []",
        "threads = [threading.Thread(target=lambda: fds.append(os.open(name, os.O_RDWR))) for _ in range(2)]",
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]",
        "len(fds) == 2 or sys.exit(1); fd = fds[1]", _AT_END, by_size=True,
    ),
    _bash("dd seek=", WRITE, f'{_DD} of="$f" oflag=seek_bytes seek="$(wc -c <"$f")"', by_size=True, reliable=False),
    _bash(
        "dd seek=, of a descriptor", BOTH,
        f'exec 3<>"$f"; {_DD} oflag=seek_bytes seek="$(stat -Lc %s /proc/self/fd/3)" >&3; exec 3>&-', by_size=True,
    ),
    _bash(
        "truncate -s +", WRITE,
        f'more=$((${{#line}} + 1)); truncate -s "+$more" "$f"; end=$(stat -c %s "$f")\n'
        f'{_DD} of="$f" oflag=seek_bytes seek="$((end - more))"',
        by_size=True, reliable=False,
    ),
    _bash(
        "<>", BOTH, f'exec 3<>"$f"; {_PYTHON_HERE} -IS -c "import os; os.lseek(3, 0, 2)"; printf "%s\\n" "$line" >&3; exec 3>&-',
        by_size=True,
    ),
    _bash("dd oflag=append", APPEND, f'{_DD} of="$f" oflag=append', closes_blindly=False),
    _python("a+", os.O_RDWR | os.O_CREAT | os.O_APPEND, "with open(name, 'a+b') as file:\n file.write(line)"),
    _bash(
        ">>", APPEND,
        'while IFS= read -r line; do { printf "%s\\n" "$line" >>"$f"; ack "$line"; } & started+=" $!"; done <<<"$lines"\n'
        'for one in $started; do wait "$one" || code=$?; done; exit "${code:-0}"', lines=3,
    ),
    # These print the content.
    _bash("cat", READ, 'cat "$f"'),
    _python("opened long before it is read", READ, "with open(name, 'rb') as file:\n wait(); os.write(1, file.read())"),
    _python(
        "mapped long before it is read again", READ, "with open(name, 'rb') as file:",
        " pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)", "first = pages[:]; wait()",
        "os.write(1, pages[:]) if pages[:] == first else sys.exit('torn')", by_size=True,
    ),
    _python("fstat and read", READ, "fd = os.open(name, os.O_RDONLY)", _BY_FSTAT, by_size=True),
    _python(
        "read backwards, in pieces", READ, "fd = os.open(name, os.O_RDONLY); places = range(0, os.fstat(fd).st_size, 1 << 16)",
        "os.write(1, b''.join([os.pread(fd, 1 << 16, place) for place in reversed(places)][::-1]))", by_size=True,
    ),
    _python(
        "lseek and pread", READ, "fd = os.open(name, os.O_RDONLY); os.write(1, os.pread(fd, os.lseek(fd, 0, 2), 0))", by_size=True
    ),
    _python(
        "a read-only mapping", READ, "fd = os.open(name, os.O_RDONLY)",
        "with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as pages:\n os.write(1, pages[:])", by_size=True,
    ),
    _python(
        "sendfile", READ, "fd = os.open(name, os.O_RDONLY); os.sendfile(1, fd, 0, os.fstat(fd).st_size)", by_size=True
    ),
    _python(
        "pages here and there", READ, _HERE_AND_THERE % "read = lambda place: os.pread(fd, 4096, place)", by_size=True,
        reliable=False,
    ),
    _python(
        "a mapping's pages here and there", READ,
        _HERE_AND_THERE
        % "pages = mmap.mmap(fd, size, prot=mmap.PROT_READ); read = lambda place: pages[place : place + 4096]",
        by_size=True, reliable=False,
    ),
    _python("again and again", READ, _AGAIN_AND_AGAIN, reliable=False),
    _python("read by an O_PATH descriptor", READ, _BY_PROC % "os.O_RDONLY", _BY_FSTAT, by_size=True),
    _bash("rsync", READ, 'rsync "$f" "$tmp.rsync"; cat "$tmp.rsync"', by_size=True, reliable=False, needs="rsync"),
    _bash("cp", READ, 'cp "$f" "$tmp.cp"; cat "$tmp.cp"', by_size=True, reliable=False),
    _bash("tar", READ, 'tar -cf - -C "${f%/*}" "${f##*/}" | tar -xOf -', by_size=True, reliable=False, needs="tar"),
    _bash("exec", READ, 'exec "$f"', reliable=False),
]  # fmt: skip
