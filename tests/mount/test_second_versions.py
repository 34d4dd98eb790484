"""A conflict copy and the file beside it, under the tools that people use on them: as on a disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.files import on_disk, save_file
from tests.support.mounts import Mount
from tests.support.serverside import below
from tests.support.waiting import eventually

JOBS, MINE, UNSENT = b"of the job\n", b"mine\n", b"mine, not sent yet\n"

_MAPPED = (
    "import mmap,sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0:2] = b'OF'; m.flush()"
)
#: `$copy` is the second version.
COMMANDS = [
    'cmp "$copy" note.txt; echo $? > said',
    'diff "$copy" note.txt > said; git diff --no-index --stat "$copy" note.txt | wc -l >> said',
    'cp -a . "$out" && mv "$out" inside',
    'rsync -aH ./ "$out" && cp -r "$out" inside',
    'cp "$copy" note.txt',
    'cp note.txt "$copy"',
    'mv "$copy" note.txt',
    'mv note.txt "$copy"',
    'mv note.txt swap && mv "$copy" note.txt && mv swap "$copy"',
    'rm "$copy"',
    "rm note.txt",
    'rm note.txt && mv "$copy" note.txt && echo more >> note.txt',
    'echo more >> "$copy"; echo other >> note.txt',
    'exec 3<note.txt 4<"$copy" 5>>note.txt; echo more >&5; mv "$copy" note.txt; echo lost >&5; cat <&3 >3; cat <&4 >4',
    'exec 3<>"$copy"; mv note.txt "$copy"; echo lost >&3; cat "$copy" > said',
    'exec 3<"$copy"; rm "$copy"; mkdir "$copy"; cp note.txt "$copy/x"; cat <&3 > said',
    'sed -i s/of/OF/ "$copy"; sed -i s/mine/MINE/ note.txt',
    'cp note.txt note.txt~; mv "$copy" "$copy~"; mv "$copy~" note.txt; cat note.txt~ > said; rm note.txt~',
    f'python3 -c "{_MAPPED}" "$copy"',
    'truncate -s 3 "$copy"; truncate -s 5 note.txt; stat -c %s "$copy" note.txt > said',
]


def conflict_in(directory: Path) -> str:
    """The name of the conflict copy of the note in a directory."""
    (copy,) = eventually(lambda: [name for name in os.listdir(directory) if "conflict" in name])
    return copy


@pytest.mark.parametrize("state", ["sent", "unsent after a kill"])
def test_two_versions_are_two_files(mount: Mount, tmp_path: Path, state: str) -> None:
    """vfs/semantics.md 4, Keep both: each has bytes of its own, also while the bytes of one are not sent yet."""
    # The job's bytes are not seen before the next save: a conflict.
    mounted = mount(write_back_delay=60, ttl=60)
    disk, places = tmp_path / "disk", [f"dir{number}" for number in range(len(COMMANDS))]
    notes = {place: mounted.path / place / "note.txt" for place in places}
    mounted.server.store.seed({f"{place}/note.txt": "old\n" for place in places}, age=60)
    eventually(lambda: all(note.exists() for note in notes.values()))
    for place, note in notes.items():
        save_file(note, b"saved once\n")
        mounted.server.store.write(f"{place}/note.txt", JOBS)
        save_file(note, MINE)
    copies = {place: conflict_in(mounted.path / place) for place in places}
    if state == "unsent after a kill":
        for note in notes.values():
            note.write_bytes(UNSENT)
        mounted.kill()
        mounted.mount()
    for place, command in zip(places, COMMANDS, strict=True):
        here, there, out = mounted.path / place, disk / place, tmp_path / "out"
        shutil.copytree(here, there)
        assert (there / copies[place]).read_bytes() == JOBS
        for directory in (there, here):
            environment = {**os.environ, "copy": copies[place], "out": str(out)}
            subprocess.run(["sh", "-c", command], cwd=directory, env=environment, check=False, timeout=30)
            shutil.rmtree(out, ignore_errors=True)
        assert on_disk(here) == on_disk(there), command
    mounted.umount()
    for place, command in zip(places, COMMANDS, strict=True):
        assert below(mounted.server, place) == on_disk(disk / place), command
