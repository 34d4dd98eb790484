"""The program that makes the system calls of a case: it reads cases from stdin as JSON lines, and answers what it saw.

It runs as a process of its own, beside the one that serves the workspace, and takes another user's identity for
single calls. Every call has one row of `SIMPLE`, or one method of `Calls`; its arguments are the words of a step (cases.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import mmap
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

#: Who makes a call: uid, gid, further groups.
USERS: dict[str, tuple[int, int, list[int]]] = {
    "root": (0, 0, []),
    "nobody": (65534, 65534, []),
    "other": (65533, 65533, []),
    "member": (65534, 65532, [65532, 65531]),
}
NUMBERS = {"NOBODY": 65534, "OTHER": 65533, "GROUP": 65532, "GROUP2": 65531}
_COARSE = 5  # CLOCK_REALTIME_COARSE: what file systems stamp with
#: True if a new file is brought to the server (fsync) before the next step.
SETTLE = False
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _number(word: str) -> int:
    if word in NUMBERS:
        return NUMBERS[word]
    return int(word, 8) if re.fullmatch(r"0[0-7]+", word) else int(word)


def _timespec(word: str) -> _Timespec:
    special = {"NOW": 0x3FFFFFFF, "OMIT": 0x3FFFFFFE}
    if word in special:
        return _Timespec(0, special[word])
    seconds, _, fraction = word.partition(".")
    return _Timespec(int(seconds), int(fraction.ljust(9, "0")[:9] or "0"))


def _flags(word: str) -> int:
    value = 0
    for name in word.split("|"):
        value |= getattr(os, f"O_{name}")
    return value


def _pattern(byte: str, size: int) -> bytes:
    """Bytes that are recognizable wherever they turn up; never zero."""
    unit = bytes((int(byte) * 31 + step * 7) % 255 + 1 for step in range(255))
    return (unit * (size // len(unit) + 1))[:size]


def _digest(data: bytes) -> str:
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()[:16]}"


class Calls:
    """The calls of one case; handles and marks are dropped with `close`."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._times: dict[str, tuple[int, int]] = {}
        self._running: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        for handle in self._open.values():
            with contextlib.suppress(OSError):
                os.close(handle)

    def handle(self, name: str) -> int:
        if name not in self._open:
            raise OSError(errno.EBADF, name)
        return self._open[name]

    def at(self, word: str) -> Any:
        """A handle that was given this name, else a path."""
        return self._open.get(word, word)

    # -- files

    def open(self, path: str, flags: str = "RDONLY", mode: str = "0644", name: str = "") -> None:
        handle = os.open(path, _flags(flags), _number(mode))
        if name in self._open:
            os.close(self._open.pop(name))
        if name:
            self._open[name] = handle
        else:
            os.close(handle)

    def close_(self, name: str) -> None:
        os.close(self.handle(name))
        del self._open[name]

    def create(self, path: str, mode: str = "0644", text: str = "") -> None:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _number(mode))
        try:
            os.write(handle, text.encode())
            if SETTLE:
                os.fsync(handle)
        finally:
            os.close(handle)

    def get(self, path: str) -> str:
        with open(path, "rb") as file:
            return repr(file.read())

    def mapwrite(self, name: str, text: str) -> None:
        """Through a shared memory map."""
        with mmap.mmap(self.handle(name), 0) as area:
            area[: len(text)] = text.encode()
            area.flush()

    @contextlib.contextmanager
    def _opened(self, word: str, flags: int) -> Iterator[int]:
        """A handle that was given this name, else the file of this path."""
        handle = self._open[word] if word in self._open else os.open(word, flags)
        try:
            yield handle
        finally:
            if word not in self._open:
                os.close(handle)

    def fill(self, name: str, offset: str, size: str, byte: str) -> str:
        with self._opened(name, os.O_WRONLY) as handle:
            return str(os.pwrite(handle, _pattern(byte, int(size)), int(offset)) if int(size) else 0)

    def grow(self, path: str, offset: str, size: str, byte: str) -> str:
        """Appends, as long as the file does not reach beyond `offset` before."""
        with self._opened(path, os.O_WRONLY | os.O_APPEND) as handle:
            room = int(offset) - os.fstat(handle).st_size
            return str(os.write(handle, _pattern(byte, max(0, min(room, int(size))))))

    def sum(self, name: str, offset: str, size: str) -> str:
        with self._opened(name, os.O_RDONLY) as handle:
            data = b""
            while piece := os.pread(handle, int(size) - len(data), int(offset) + len(data)):
                data += piece
            return _digest(data)

    def _mapped(self, name: str, offset: str, size: str) -> slice:
        """Return what of a stretch the file has; of a directory, which has a size of its own on each file system, nothing."""
        found = os.fstat(self.handle(name))
        there = found.st_size if stat.S_ISREG(found.st_mode) else 0
        return slice(min(int(offset), there), min(int(offset) + int(size), there))

    def mapsum(self, name: str, offset: str, size: str) -> str:
        place = self._mapped(name, offset, size)
        if place.start == place.stop:
            return _digest(b"")
        with mmap.mmap(self.handle(name), 0, prot=mmap.PROT_READ) as area:
            return _digest(area[place])

    def mapfill(self, name: str, offset: str, size: str, byte: str) -> str:
        place = self._mapped(name, offset, size)
        if place.start < place.stop:
            with mmap.mmap(self.handle(name), 0) as area:
                area[place] = _pattern(byte, place.stop - place.start)
        return str(place.stop - place.start)

    def size(self, path: str) -> str:
        """Of a file; directories have sizes of their own on each file system."""
        found = os.stat(self.at(path))
        return str(found.st_size) if stat.S_ISREG(found.st_mode) else "-"

    def lock(self, name: str) -> None:
        """An exclusive fcntl lock on the whole file, or EAGAIN."""
        import fcntl

        fcntl.lockf(self.handle(name), fcntl.LOCK_EX | fcntl.LOCK_NB)

    # -- attributes

    def utimens(self, path: str, atime: str, mtime: str) -> None:
        times = (_Timespec * 2)(_timespec(atime), _timespec(mtime))
        handle = self._open.get(path)
        if handle is None:
            _checked(_libc.utimensat(-100, os.fsencode(path), times, 0))
        else:
            _checked(_libc.futimens(handle, times))

    def umask(self, mask: str) -> None:
        os.umask(_number(mask))

    def mark(self, *paths: str) -> None:
        """Remember the times of files; what changes them afterwards gets a later time."""
        for path in paths:
            found = os.stat(self.at(path))
            self._times[path] = (found.st_mtime_ns, found.st_ctime_ns)
        latest = max(max(self._times[path]) for path in paths)
        while time.clock_gettime_ns(_COARSE) <= latest:
            time.sleep(0.001)

    def moved(self, path: str, at: str = "") -> str:
        """Which times went forward since `mark` (of `at`, if the file had that name then)."""
        found = os.stat(self.at(path))
        if (at or path) not in self._times:
            raise OSError(errno.ENODATA, path)
        before = self._times[at or path]
        now = (found.st_mtime_ns, found.st_ctime_ns)
        words = [word for word, old, new in zip(("mtime", "ctime"), before, now, strict=True) if new > old]
        return " ".join(words) or "nothing"

    # -- programs

    def start(self, path: str) -> None:
        """Run until the case ends; it has been executed when this returns."""
        self._running.append(subprocess.Popen([f"./{path}", "100"]))

    def program(self, path: str, mode: str = "0755") -> None:
        """A small executable that waits to be killed."""
        with open("/bin/sleep", "rb") as source, open(path, "wb") as copy:
            copy.write(source.read())
            if SETTLE:
                os.fsync(copy.fileno())
        os.chmod(path, _number(mode))


def _renameat2(old: str, new: str, flags: int) -> None:
    here = -100
    _checked(_libc.renameat2(here, os.fsencode(old), here, os.fsencode(new), flags))


def _access(path: str, wanted: str) -> None:
    mask = sum({"r": os.R_OK, "w": os.W_OK, "x": os.X_OK, "f": os.F_OK}[letter] for letter in wanted)
    _checked(_libc.faccessat(-100, os.fsencode(path), mask, 0))


def _fields(found: os.stat_result, fields: tuple[str, ...]) -> str:
    return " ".join(_field(found, field) for field in fields) or "ok"


def _field(found: os.stat_result, field: str) -> str:
    if field == "mode":
        return f"{stat.S_IMODE(found.st_mode):04o}"
    if field == "type":
        return stat.filemode(found.st_mode)[0]
    return str(getattr(found, f"st_{field}_ns" if field in ("atime", "mtime") else f"st_{field}"))


#: Calls of one line, by their names: they get the Calls, and the words of the step.
SIMPLE: dict[str, Callable[..., object]] = {
    # Files
    "opendir": lambda calls, path, name: calls.open(path, "RDONLY|DIRECTORY", name=name),
    "read": lambda calls, name, size="100": repr(os.read(calls.handle(name), int(size))),
    "pread": lambda calls, name, size, offset: repr(os.pread(calls.handle(name), int(size), int(offset))),
    "write": lambda calls, name, text: os.write(calls.handle(name), text.encode()),
    "pwrite": lambda calls, name, text, offset: os.pwrite(calls.handle(name), text.encode(), int(offset)),
    "seek": lambda calls, name, offset, whence="SET": os.lseek(calls.handle(name), int(offset), getattr(os, f"SEEK_{whence}")),
    "truncate": lambda calls, path, length: os.truncate(calls.at(path), int(length)),
    "fsync": lambda calls, name: os.fsync(calls.handle(name)),
    "fallocate": lambda calls, name, offset, length: _checked(
        _libc.fallocate(calls.handle(name), 0, ctypes.c_long(int(offset)), ctypes.c_long(int(length)))
    ),
    "posix_fallocate": lambda calls, name, offset, length: os.posix_fallocate(calls.handle(name), int(offset), int(length)),
    "setxattr": lambda calls, path, name, value: os.setxattr(path, name, value.encode()),
    # Names
    "mkdir": lambda calls, path, mode="0755": os.mkdir(path, _number(mode)),
    "rmdir": lambda calls, path: os.rmdir(path),
    "unlink": lambda calls, path: os.unlink(path),
    "rename": lambda calls, old, new: os.rename(old, new),
    "rename_noreplace": lambda calls, old, new: _renameat2(old, new, 1),
    "rename_exchange": lambda calls, old, new: _renameat2(old, new, 2),
    "link": lambda calls, old, new: os.link(old, new),
    "symlink": lambda calls, target, path: os.symlink(target, path),
    "readlink": lambda calls, path: os.readlink(path),
    "mkfifo": lambda calls, path, mode="0644": os.mkfifo(path, _number(mode)),
    "mknod": lambda calls, path, kind, mode="0644": os.mknod(
        path, getattr(stat, f"S_IF{kind}") | _number(mode), os.makedev(1, 3)
    ),
    "ls": lambda calls, path=".": " ".join(sorted(os.listdir(calls.at(path)))) or "(empty)",
    "chdir": lambda calls, path: os.chdir(path),
    "getcwd": lambda calls: os.path.basename(os.getcwd()),
    # Attributes
    "chmod": lambda calls, path, mode: os.chmod(calls.at(path), _number(mode)),
    "chown": lambda calls, path, uid, gid: os.chown(calls.at(path), _number(uid), _number(gid)),
    "access": lambda calls, path, wanted: _access(path, wanted),
    "stat": lambda calls, path, *fields: _fields(os.stat(calls.at(path)), fields),
    "lstat": lambda calls, path, *fields: _fields(os.lstat(path), fields),
    "same": lambda calls, one, other: (  # two names, or a name and a handle: one file?
        "same" if os.path.samestat(os.stat(calls.at(one)), os.stat(calls.at(other))) else "different"
    ),
    "statvfs": lambda calls, field: getattr(os.statvfs("."), f"f_{field}"),
    # A program is run to its end.
    "execute": lambda calls, path: subprocess.run([f"./{path}", "0"], check=False).returncode,
}  # fmt: skip


def _become(user: str | None) -> None:
    os.setresuid(0, 0, 0)
    if user is None:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        return
    uid, gid, groups = USERS[user]
    os.setgroups(groups)
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)


def _step(calls: Calls, user: str | None, words: list[str]) -> str:
    name = "close_" if words[0] == "close" else words[0]
    if user is not None:
        _become(user)
    try:
        answer = SIMPLE[name](calls, *words[1:]) if name in SIMPLE else getattr(calls, name)(*words[1:])
        return "ok" if answer is None else str(answer)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:
        return f"the step is wrong: {error!r}"
    finally:
        if user is not None:
            _become(None)


def _run(case: dict[str, Any]) -> list[str]:
    global SETTLE
    SETTLE = case["settle"]
    os.chdir(case["base"])
    if case["make"]:
        os.mkdir(case["make"])
        os.chmod(case["make"], 0o777)
        os.chdir(case["make"])
    calls = Calls()
    try:
        return [_step(calls, step["user"], step["words"]) for step in case["steps"]]
    finally:
        calls.close()
        os.chdir("/")
        os.umask(0)


def _read_only(directory: str) -> None:
    """Make one directory read-only, for this process alone."""
    new_namespace, private, bind, remount, read_only = 0x20000, 1 << 18 | 1 << 14, 4096, 32, 1
    path = os.fsencode(directory)
    _checked(_libc.unshare(new_namespace))
    _checked(_libc.mount(None, b"/", None, private, None))
    # Held here, the mounts of other tests could not end there.
    subprocess.run(["umount", "-a", "-i", "-l", "-t", "fuse.jobfs"], check=False, capture_output=True)
    _checked(_libc.mount(path, path, None, bind, None))
    _checked(_libc.mount(None, path, None, bind | remount | read_only, None))


def main() -> None:
    """Answers a JSON line for a JSON line, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0)
    if len(sys.argv) > 1:
        _read_only(sys.argv[1])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
