"""The log of a build: a shell has it open, and each program that the shell starts closes a descriptor of it when it ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.mounts import MountedJob
from tests.support.serverside import visible
from tests.support.waiting import eventually, eventually_equal

from jobfs.emulator import Server

STEPS, SIZE = 20, 1 << 18
#: Lists the local bytes after the first step and after the last one, writes a line that nothing closes, and waits.
BUILD = f"""
exec >build.log
for step in $(seq {STEPS}); do
  head -c {SIZE} /dev/zero
  echo step $step
  [ $step != 2 ] || ls "$1" >"$2/first"
done
ls "$1" >"$2/last"
echo unclosed
read -r line
"""


def test_a_build_log_is_written_in_place_and_closed_lines_survive_a_kill(
    server: Server, mount: Callable[..., MountedJob], tmp_path: Path
) -> None:
    """vfs/semantics.md 4.3, 4.49."""
    mounted = mount(write_back_delay=30)
    (local,) = mounted.state.rglob("bytes")
    closed = b"".join(bytes(SIZE) + b"step %d\n" % step for step in range(1, STEPS + 1))
    words = ["bash", "-e", "-c", BUILD, "build", str(local), str(tmp_path)]
    with subprocess.Popen(words, cwd=mounted.path, stdin=subprocess.PIPE):
        size = len(closed) + len(b"unclosed\n")
        eventually(lambda: sum(entry.stat().st_size for entry in os.scandir(local)) == size)
        first, last = ((tmp_path / name).read_text().split() for name in ("first", "last"))
        assert first == last, "no other generation was begun: nothing was copied"
        mounted.kill()
    mounted.mount()
    eventually_equal(
        lambda: sorted(content or b"" for content in visible(server).values()),
        [closed, closed + b"unclosed\n"],
    )
    assert visible(server)["build.log"] == closed
    assert (mounted.path / "build.log").read_bytes() == closed
    assert (
        "build.log was written and never closed: what was written is kept as build.recovered-" in mounted.log
    )
