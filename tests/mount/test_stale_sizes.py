"""Programs that go by a file's size, opened while the kernel has an older one (vfs/semantics.md 3, Open files are pinned)."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.support.files import errno_from
from tests.support.mounts import Mount, MountedJob, run
from tests.support.serverside import untimed, visible
from tests.support.waiting import eventually

#: A script that shows itself, so that it can be executed as well as read.
OLD = b'#!/bin/sh\ncat "$0"; exit\n' + b"an old line\n" * 20
ADDED, MINE = b"the job's new lines\n" * 3, b"mine\n"
LARGE = 5 << 18


def _python(*lines: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        "\n".join(["import mmap, os, sys", "name = sys.argv[1]", *lines]),
        "$f",
    ]


def _shell(script: str) -> list[str]:
    return ["bash", "-ec", script, "$f"]


_WRITE_AT_END = "os.pwrite(fd, b'mine\\n', os.fstat(fd).st_size)"
#: Each opens its file to write in place, and writes `MINE` at the end.
WRITERS = {
    "r+, seek to the end": _python("file = open(name, 'r+b')", "file.seek(0, 2)", "file.write(b'mine\\n')"),
    "O_WRONLY, lseek": _python("fd = os.open(name, os.O_WRONLY)", "os.lseek(fd, 0, 2)", "os.write(fd, b'mine\\n')"),
    "O_WRONLY, fstat": _python("fd = os.open(name, os.O_WRONLY)", _WRITE_AT_END),
    "O_RDWR, fstat": _python("fd = os.open(name, os.O_RDWR)", _WRITE_AT_END),
    "O_RDWR and O_CREAT": _python("fd = os.open(name, os.O_RDWR | os.O_CREAT)", _WRITE_AT_END),
    "ftruncate, longer": _python(
        "fd = os.open(name, os.O_RDWR)", "size = os.fstat(fd).st_size", "os.ftruncate(fd, size + 5)",
        "os.pwrite(fd, b'mine\\n', size)",
    ),
    "ftruncate, to what was written": _python(
        "fd = os.open(name, os.O_WRONLY)", "size = os.lseek(fd, 0, 2)", "os.write(fd, b'mine\\n')",
        "os.ftruncate(fd, size + 5)",
    ),
    "a shared mapping": _python(
        "fd = os.open(name, os.O_RDWR)", "size = os.fstat(fd).st_size", "os.ftruncate(fd, size + 5)",
        "pages = mmap.mmap(fd, 0)", "pages[size:] = b'mine\\n'", "pages.flush()",
    ),
    "by /proc/self/fd": _python(
        "path = os.open(name, os.O_PATH)", "fd = os.open(f'/proc/self/fd/{path}', os.O_RDWR)", _WRITE_AT_END
    ),
    "two programs at once": _python(
        "import threading", "fds = []",
        "threads = [threading.Thread(target=lambda: fds.append(os.open(name, os.O_RDWR))) for _ in range(2)]",
        "[thread.start() for thread in threads]", "[thread.join() for thread in threads]", "fd = fds[1]", _WRITE_AT_END,
    ),
    "dd seek=": _shell('dd if=<(echo mine) of="$0" bs=1 seek=$(wc -c <"$0") conv=notrunc status=none'),
    "dd oflag=append": _shell('dd if=<(echo mine) of="$0" oflag=append conv=notrunc status=none'),
    "truncate -s +5": _shell('truncate -s +5 "$0"; size=$(stat -c %s "$0")\n'
                            'dd if=<(echo mine) of="$0" bs=1 seek=$((size - 5)) conv=notrunc status=none'),
    "a+": _python("file = open(name, 'a+b')", "file.write(b'mine\\n')"),
    ">>": _shell('echo mine >>"$0"'),
    "<>": _shell(f'exec 3<>"$0"; "{sys.executable}" -c "import os; os.lseek(3, 0, 2)"; echo mine >&3'),
}  # fmt: skip

#: Opens its file until that is new, and writes `MINE` at the end.
AS_SOON_AS_IT_IS_NEW = _python(
    "while True:",
    "    fd = os.open(name, os.O_RDWR)",
    "    end = os.lseek(fd, 0, 2)",
    "    if b'new' in os.pread(fd, 60, 0):",
    "        break",
    "    os.close(fd)",
    "os.pwrite(fd, b'mine\\n', end)",
)

#: Opens its file, waits until its input ends, and shows all that it reads.
_READER = """if True:
    import sys
    file = open(sys.argv[1], "rb")
    print("opened", flush=True)
    sys.stdin.read()
    sys.stdout.buffer.write(file.read())
"""

#: Each shows the whole of its file.
READERS = {
    "fstat and read": _python("fd = os.open(name, os.O_RDONLY)", "os.write(1, os.read(fd, os.fstat(fd).st_size))"),
    "lseek and pread": _python("fd = os.open(name, os.O_RDONLY)", "os.write(1, os.pread(fd, os.lseek(fd, 0, 2), 0))"),
    "a mapping": _python("os.write(1, mmap.mmap(os.open(name, os.O_RDONLY), 0, prot=mmap.PROT_READ)[:])"),
    "sendfile": _python(
        "fd = os.open(name, os.O_RDONLY)", "os.sendfile(1, fd, 0, os.fstat(fd).st_size)",
    ),
    "by /proc/self/fd": _python(
        "path = os.open(name, os.O_PATH)", "fd = os.open(f'/proc/self/fd/{path}', os.O_RDONLY)",
        "os.write(1, os.read(fd, os.fstat(fd).st_size))",
    ),
    "rsync": _shell('rsync "$0" /dev/shm/$$; cat /dev/shm/$$; rm /dev/shm/$$'),
    "cp": _shell('cp "$0" /dev/shm/$$; cat /dev/shm/$$; rm /dev/shm/$$'),
    "tar": _shell('tar -cf - -C "$(dirname "$0")" "$(basename "$0")" | tar -xOf -'),
    "cat": _shell('cat "$0"'),
    "exec": _shell('exec "$0"'),
}  # fmt: skip


def seeded(mounted: MountedJob, table: dict[str, list[str]], old: bytes = OLD) -> dict[str, str]:
    """The file of each program of a table, executable."""
    files = {name: f"file{number}" for number, name in enumerate(table)}
    mounted.server.store.seed(dict.fromkeys(files.values(), old), age=60)
    for file in files.values():
        (mounted.path / file).chmod(0o755)
    return files


def look(mounted: MountedJob, file: str, old: bytes = OLD) -> None:
    """The kernel learns the old size of a file, or has it still."""
    assert (mounted.path / file).stat().st_size == len(old)


def run_on(mounted: MountedJob, words: list[str], file: str) -> bytes:
    """What a program of a table prints."""
    path = str(mounted.path / file)
    return run(mounted.path, *(word.replace("$f", path) for word in words)).encode()


@pytest.mark.parametrize(("ttl", "new"), [(60, OLD + ADDED), (1, OLD + ADDED), (60, OLD[:100])],
                         ids=["longer", "longer, short ttl", "shorter"])  # fmt: skip
def test_a_writer_finds_the_end_of_what_the_job_wrote(mount: Mount, ttl: float, new: bytes) -> None:
    """vfs/semantics.md 3.17: that of the version which it opened."""
    mounted = mount(ttl=ttl)
    files = seeded(mounted, WRITERS)
    for name, file in files.items():
        look(mounted, file)
        mounted.server.store.write(file, new)
        run_on(mounted, WRITERS[name], file)
    mounted.wait_until_settled()
    tree = untimed(visible(mounted.server))
    found = {name: tree[file] for name, file in files.items()}
    assert {name: (data or b"")[-100:] for name, data in found.items() if data != new + MINE} == {}
    assert tree.keys() == {*files.values()}


def test_a_writer_finds_the_end_of_what_the_job_appended_to_a_large_file(mount: Mount) -> None:
    """vfs/semantics.md 3.17: such a file is fetched after its open, and looked up by it."""
    mounted, old = mount(ttl=60), OLD + b"padding\n" * (LARGE // 8)
    files = seeded(mounted, WRITERS, old)
    # Its write may be ESTALE: the kernel has one set of pages for both (3.13).
    del files["two programs at once"]
    for name, file in files.items():
        look(mounted, file, old)
        mounted.server.store.write(file, old + ADDED)
        run_on(mounted, WRITERS[name], file)
    mounted.wait_until_settled()
    tree = untimed(visible(mounted.server))
    found = {name: tree[file] for name, file in files.items()}
    assert {name: (data or b"")[-100:] for name, data in found.items() if data != old + ADDED + MINE} == {}
    assert not [path for path in tree if path.endswith(".conflict")]


@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_the_first_open_of_a_new_version_finds_its_end_beside_a_program_that_has_the_old_one_open(
    mounted: MountedJob, mode: str
) -> None:
    """vfs/semantics.md 3.17: whether that program reads or writes."""
    new = OLD.replace(b"old", b"new") + ADDED
    seeded(mounted, {"only": []})
    with (mounted.path / "file0").open(mode) as before:
        assert before.read() == OLD
        mounted.server.store.write("file0", new)
        run_on(mounted, AS_SOON_AS_IT_IS_NEW, "file0")
    mounted.wait_until_settled()
    assert visible(mounted.server) == {"file0": new + MINE}


def test_a_reader_that_goes_by_the_size_has_a_whole_version(mount: Mount) -> None:
    """vfs/semantics.md 3.17: never a piece of a longer one."""
    mounted, new = mount(ttl=60), OLD.replace(b"old", b"new") + ADDED
    files = seeded(mounted, READERS)
    for file in files.values():
        look(mounted, file)
        mounted.server.store.write(file, new)
    shown = dict[str, bytes]()
    for name, file in files.items():
        look(mounted, file)
        shown[name] = run_on(mounted, READERS[name], file)
    assert {name: said[-30:] for name, said in shown.items() if said != new} == {}


def test_a_reader_of_a_large_file_that_the_job_makes_longer_after_its_open_has_the_whole_of_it(
    mount: Mount,
) -> None:
    """vfs/semantics.md 3.17, 4.42: else an editor would save it without its end."""
    mounted, old = mount(ttl=60), b"a line\n" * (LARGE // 7)
    seeded(mounted, {"only": []}, old)
    look(mounted, "file0", old)
    mounted.server.faults.set_rate("unavailable", 1.0, on="download")
    reader = subprocess.Popen(
        [sys.executable, "-c", _READER, mounted.path / "file0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"opened\n"
        mounted.server.store.write("file0", ADDED + old)
        mounted.server.faults.clear()
        reader.stdin.close()
        assert reader.stdout.read() == ADDED + old


def _write(fd: int, end: int) -> None:
    os.pwrite(fd, MINE, end)


def _write_behind_new_length(fd: int, end: int) -> None:
    os.ftruncate(fd, end + len(MINE))
    os.pwrite(fd, MINE, end)


@pytest.mark.parametrize(("write", "new"), [
    (_write, OLD + ADDED), (_write, OLD[:100]), (_write_behind_new_length, OLD + ADDED),
], ids=["write", "write, shorter", "ftruncate"])  # fmt: skip
def test_a_writer_that_finds_the_end_of_a_newer_version_writes_to_no_other(
    mount: Mount, write: Callable[[int, int], None], new: bytes
) -> None:
    """vfs/semantics.md 3.17: `fstat` shows the size of the newest version, and the file is open as the one before."""
    mounted = mount(ttl=0.5)
    seeded(mounted, {"only": []})
    fd = os.open(mounted.path / "file0", os.O_RDWR)
    try:
        mounted.server.store.write("file0", new)
        eventually(lambda: os.fstat(fd).st_size == len(new))
        assert errno_from(write, fd, len(new)) == errno.ESTALE
    finally:
        os.close(fd)
    mounted.wait_until_settled()
    assert untimed(visible(mounted.server)) == {"file0": new}


def test_a_page_of_a_mapping_brings_no_zeros_up_to_the_end_of_a_newer_version(mount: Mount) -> None:
    """vfs/semantics.md 3.17: the kernel fills the page up to the size that it was sent last, and writes all of it."""
    mounted, new = mount(ttl=0.5), OLD + ADDED
    seeded(mounted, {"only": []})
    fd = os.open(mounted.path / "file0", os.O_RDWR)
    try:
        with mmap.mmap(fd, 0) as pages:
            pages[: len(MINE)] = MINE
            mounted.server.store.write("file0", new)
            eventually(lambda: os.fstat(fd).st_size == len(new))
            assert errno_from(pages.flush) == errno.ESTALE
    finally:
        os.close(fd)
    mounted.wait_until_settled()
    assert untimed(visible(mounted.server)) == {"file0": new}
