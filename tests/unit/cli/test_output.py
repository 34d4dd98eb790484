"""What commands write: all of it or nothing."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.cli.output import make_write_error, print_unless_same_file, replace_file
from jobfs.errors import FsError, JobfsError, UsageError
from jobfs.names import is_scratch, quote_for_shell

_READ_ONLY = "it's is readOnly in the job: run chmod u+w " + quote_for_shell("it's") + " first"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    return tmp_path / "dir" / "file"


@pytest.mark.parametrize("name", ["file", "-n", "ü" * 127, "x" * 255])
def test_a_file_is_renamed_over_from_a_scratch_name_with_its_mode(file: Path, name: str) -> None:
    """vfs/semantics.md 4.54: as an editor does; before the rename it has all its bytes, and the file is as it was."""
    file = file.with_name(name)
    seen: list[str] = []

    def look() -> None:
        seen.extend(set(os.listdir(file.parent)) - {name})
        scratch = file.with_name(seen[-1])
        assert scratch.read_bytes() == b"new"
        assert file.exists() is (len(seen) > 1)

    replace_file(file, b"new", look)
    file.chmod(0o751)
    inode = file.stat().st_ino
    replace_file(file, b"new", look)
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"new", 0o751)
    assert file.stat().st_ino != inode
    assert os.listdir(file.parent) == [name]
    assert len(set(seen)) == 2
    assert all(map(is_scratch, seen))


@pytest.mark.parametrize("fails", ["before", "rename", "fsync"])
def test_a_failed_write_keeps_the_file_and_leaves_no_scratch_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """vfs/semantics.md 4.54: where only the last step has failed, the bytes are sent later."""
    file.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before: Callable[[], object] = fail if fails == "before" else lambda: None
    if fails != "before":
        monkeypatch.setattr(*{"rename": (Path, "rename"), "fsync": (os, "fsync")}[fails], fail)
    with pytest.raises(FsError, match=f"^{file}: Input/output error$"):
        replace_file(file, b"new", before)
    assert file.read_bytes() == (b"new" if fails == "fsync" else b"old")
    assert os.listdir(file.parent) == ["file"]


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EROFS, UsageError, "it's is mounted read-only: mount the job without --read-only"),
        (errno.EPERM, UsageError, _READ_ONLY),
        (errno.EACCES, UsageError, _READ_ONLY),
        (errno.ENOSPC, FsError, "it's: No space left on device"),
    ],
)
def test_a_refusal_names_the_remedy(number: int, kind: type[JobfsError], words: str) -> None:
    """vfs/semantics.md 4.54: exit code 2 for what the user has to change; a name is quoted in a command only."""
    error = make_write_error(Path("it's"), OSError(number, os.strerror(number)))
    assert (type(error), str(error)) == (kind, words)


def test_restoring_to_the_file_itself_by_redirection_is_refused(
    file: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """vfs/semantics.md 4.55: whatever the mode of the redirection."""
    file.write_bytes(b"old")
    print_unless_same_file(str(file), b"\xff\n")
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"\xff\n"
    code = "import sys; from jobfs.cli.output import *; print_unless_same_file(sys.argv[1], b'new')"
    for mode in ("ab", "r+b", "wb"):
        with file.open(mode) as out:
            done = subprocess.run(
                [sys.executable, "-c", code, file], stdout=out, stderr=subprocess.PIPE, text=True, check=False
            )
        assert "itself, which the shell has emptied: run jobfs restore --in-place" in done.stderr
        assert file.read_bytes() == (b"" if mode == "wb" else b"old")


def test_output_that_exceeds_the_disk_is_reported_in_one_sentence() -> None:
    """vfs/semantics.md 4.51: whoever restores to a full disk learns that this copy is cut off."""
    code = (
        "from jobfs.cli.output import *\ntry: print_unless_same_file('/nowhere', b'x')\n"
        "except FsError as error: sys.exit(str(error))"
    )
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr.splitlines()[0] == "can't write all of the output: No space left on device"
