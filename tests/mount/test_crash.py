"""Killed, refused or cut off: nothing that was closed is lost, nothing hidden is left; nor where trees are removed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.mounts import Mount, MountedJob, run
from tests.support.serverside import hidden, untimed, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server


@pytest.fixture
def write() -> Iterator[Callable[..., None]]:
    """Programs write, and have closed nothing when the mount dies."""
    with ExitStack() as stack:

        def write(path: Path, content: bytes, flags: int = os.O_CREAT | os.O_TRUNC) -> None:
            handle = os.open(path, os.O_WRONLY | flags, 0o640)
            stack.callback(errno_from, os.close, handle)
            os.write(handle, content)

        yield write


def test_bytes_that_were_never_closed_return_beside_their_file(
    server: Server, mount: Mount, write: Callable[..., None]
) -> None:
    """vfs/semantics.md 4.3: written and never closed, and the mount died: never under the name itself; mount, status say it."""
    server.store.seed({"existing.txt": "whole as it is", "kept": "untouched", "log": "line 1\n"}, age=60)
    mounted = mount()
    (mounted.path / "sub").mkdir()
    write(mounted.path / "sub/results.txt", b"new, and never closed\n")
    write(mounted.path / "existing.txt", b"half of a rewr")
    write(mounted.path / "kept", b"", 0)
    write(mounted.path / "empty", b"")
    with (mounted.path / "log").open("ab") as log:
        log.write(b"line 2\n")
    write(mounted.path / "log", b"line 3\n", os.O_APPEND)
    write(mounted.path / "before", b"renamed while it was written")
    (mounted.path / "before").rename(mounted.path / "after")
    write(mounted.path / "unlinked", b"gone, as on a disk")
    (mounted.path / "unlinked").unlink()
    eventually(lambda: "sub" in visible(server))
    mounted.kill()
    mounted.mount()
    for name, kept in (("sub/results", ".txt"), ("existing", ".txt"), ("log", ""), ("after", "")):
        assert re.search(
            rf"{name}{kept} was written and never closed: .* {name}\.recovered-[\dTZ]+{kept}\n", mounted.log
        )
    expected: dict[str, bytes | None] = {
        "sub": None,
        "sub/results.recovered.txt": b"new, and never closed\n",
        "existing.txt": b"whole as it is",
        "existing.recovered.txt": b"half of a rewr",
        "kept": b"untouched",
        "log": b"line 1\nline 2\n",
        "log.recovered": b"line 1\nline 2\nline 3\n",
        "after.recovered": b"renamed while it was written",
    }
    shown = {path.name: path for path in mounted.path.iterdir()}
    assert untimed(dict.fromkeys(shown)).keys() == {path.partition("/")[0] for path in expected}
    (half,) = (path for path in shown.values() if path.name.startswith("existing.recovered"))
    assert half.read_bytes() == b"half of a rewr"
    done = mounted.jobfs("status", mounted.path)
    assert done.returncode == 1, "a person must look at them"
    assert done.stdout.count("of a save that was not finished: ") == 4
    mounted.umount()
    assert untimed(visible(server)) == expected
    mounted.mount()
    assert len(mounted.status()["conflicts"]) == 4, "as long as they are there"


# On a disk, too, two at once may stumble over each other in a tree that is deeper.
@pytest.mark.parametrize(
    ("trees", "at_once"), [("w/{1..200} w/$(printf 'x/%.0s' {1..30})", 1), ("w/{1..12}/{a..d}/e/f", 2)]
)
def test_a_tree_is_removed_completely_without_an_error(
    server: Server, mounted: MountedJob, trees: str, at_once: int
) -> None:
    """vfs/semantics.md 4.29, save/protocol.md R12: an item of ours that is gone, or on its way out, is no content."""
    root = mounted.path
    others = {f"other/f{number}": b"stays" for number in range(300)}
    server.store.seed(others, age=60)
    # An item that was moved away goes at any moment while the directory above it is looked at.
    server.faults.set_rate("slow", 0.5, on="delete", delay=0.05)
    run(root, "bash", "-c", f"mkdir -p {trees}")
    command, pipe = ["env", "-C", str(root), "rm", "-rf", "w"], subprocess.PIPE
    programs = [subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT) for _ in range(at_once)]
    outcomes = [(program.communicate(timeout=60)[0], program.returncode) for program in programs]
    assert outcomes == [(b"", 0)] * at_once
    assert os.listdir(root) == ["other"]
    eventually(lambda: not hidden(server), lambda: f"{hidden(server)}\n{mounted.log}")
    assert visible(server) == {"other": None, **others}
    assert "it is back" not in mounted.log
