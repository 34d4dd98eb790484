"""More programs on a real mount; what each leaves is on the server, byte for byte, and is what a local disk would have."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.files import on_disk, save_file
from tests.support.mounts import Mount, MountedJob, run
from tests.support.serverside import below, doubled, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

#: Shell scripts, run on a disk and in a mount: afterwards both have the same. `$out` is on a disk.
SCRIPTS = (
    "install -m 755 data.txt bin && install -d made/here && install -m 600 data.txt made/here/",
    "sort -o data.txt data.txt",
    "sed -i.bak -e s/pear/peach/ data.txt && sed -i -e 1d data.txt",
    "cp data.txt old; sed s/pear/peach/ old > new; diff -u --label a --label b old new > p || true; patch data.txt < p",
    "dd if=blob of=cut bs=777 skip=3 seek=1 count=5 status=none && "
    "dd if=data.txt of=blob bs=1 seek=5000 conv=notrunc status=none",
    "split -b 3000 blob part. && cat part.* > whole && cmp blob whole",
    "zip -qr all.zip data.txt sub && rm -r sub && unzip -qo all.zip && rm all.zip",
    "cp blob $out && cat $out/blob blob >> $out/more && cp $out/more data.txt && cp $out/more new && "
    "cp data.txt $out/back && cmp $out/back $out/more",
    "mkdir -p tree/none tree/a/b && cp blob 'tree/über uns.bin' && cp data.txt empty tree/a/b/ && "
    "cp -r tree $out && rm -r tree && cp -r $out/tree in && cp -r in copy && cp -r copy $out/back && diff -r $out/tree $out/back",
    "echo local > $out/local && mv $out/local data.txt && mv sub/a.txt . && mv sub $out && "
    "cat $out/sub/deep/b.txt",
    "rm -r sub && ls",
    "grep -rn pear . | sort",
    "tar -czf all.tgz sub data.txt && rm -r sub data.txt && tar -xf all.tgz && rm all.tgz",
    "cp -a sub copy && cp -a --sparse=always blob sparse",
    "find sub -name '*.txt' -delete && find . -empty -type f -delete",
    """jq '.list[1] = "two"' doc.json > doc.tmp && mv doc.tmp doc.json""",
    "fallocate -x -l 5000 room && fallocate -x -o 9000 -l 1 data.txt",
    "for i in 1 2 3 4 5; do echo $i >> log; done; tee -a log < data.txt > /dev/null",
    'for p in 1 2 3 4; do (for i in $(seq 50); do echo "$p line $i" >> log; done) & done; wait; sort -o log log',
    "mkdir to && mv data.txt to/ && mv to/data.txt data.txt && mv -T sub to/sub && mv to/sub/a.txt b.txt",
)


SEEDS = {
    "data.txt": b"pear\napple\nquince\nfig\n" * 20, "blob": bytes(range(256)) * 64, "doc.json": b'{"list": [1, 2, 3]}',
    "empty": b"", "sub/a.txt": b"a\n", "sub/deep/b.txt": b"b\n", "sub/deep/c.bin": b"\0" * 5000,
}  # fmt: skip


def put(directory: Path) -> None:
    """The same on a disk."""
    for name, content in SEEDS.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


@pytest.mark.needs_program("patch", "zip", "unzip", "tar", "jq")
def test_scripts_leave_the_same_files_as_on_a_disk(server: Server, mount: Mount, tmp_path: Path) -> None:
    """vfs/semantics.md is silent: what a user of a local disk would expect. Each has a directory of its own."""
    for place in range(len(SCRIPTS)):
        server.store.seed({f"w{place}/{name}": content for name, content in SEEDS.items()}, age=60)
        put(tmp_path / f"disk/w{place}")
    mounted = mount()
    for place, script in enumerate(SCRIPTS):
        command = ("bash", "-e", "-c", f'out=$(mktemp -d -p "$0"); {script}', tmp_path)
        expected = run(tmp_path / f"disk/w{place}", *command)
        assert run(mounted.path / f"w{place}", *command) == expected, script
    mounted.wait_until_settled()
    for place, script in enumerate(SCRIPTS):
        assert below(server, f"w{place}") == on_disk(tmp_path / f"disk/w{place}"), script
    assert doubled(server) == []
    assert mounted.status()["conflicts"] == []


@pytest.mark.needs_program("git")
def test_git_clones_branches_stashes_collects_and_makes_worktrees(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    origin = tmp_path / "origin"
    script = """
        git init -q -b main . && git config user.name A && git config user.email a@example.invalid
        for i in $(seq 15); do echo "file $i" > f$i; done; mkdir sub; echo deep > sub/file
        git add . && git commit -qm first && echo more >> f1 && git commit -qam second"""
    origin.mkdir()
    run(origin, "bash", "-e", "-c", script, home=mounted.home)
    script = f"""
        (mkdir probe && cd probe && git init -q && git update-index --test-untracked-cache) & probe=$!
        git clone -q {origin} copy && cd copy && git config user.name A && git config user.email a@example.invalid
        test -z "$(git status --porcelain)"
        git checkout -q -b other && echo changed > f2 && rm f3 && git mv f4 g4 && git commit -qam third
        echo dirty > f5 && git stash -q && test "$(cat f5)" = "file 5" && git stash pop -q && test "$(cat f5)" = dirty
        git checkout -q f5 && git checkout -q main && test -e f3 && git merge -q other && test ! -e f3
        git gc -q && git fsck --strict && git worktree add -q ../tree other && test "$(cat ../tree/f2)" = changed
        cd ../tree && echo x > new && git add new && git commit -qm fourth
        wait $probe && git worktree list | wc -l"""
    assert run(mounted.path, "bash", "-e", "-c", script, home=mounted.home).split()[-1] == "2"
    mounted.wait_until_settled()
    mounted.remount()
    check = 'test -z "$(git status --porcelain)" && git fsck --strict && git log --oneline | wc -l'
    assert run(mounted.path / "copy", "bash", "-e", "-c", check, home=mounted.home).split()[-1] == "3"
    assert doubled(server) == []
    assert mounted.status()["conflicts"] == []


@pytest.mark.needs_program("rsync")
def test_rsync_in_place_deletes_and_a_second_run_has_nothing_to_do(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    put(source)
    words = ("rsync", "-a", "--delete", "--inplace", "--itemize-changes")
    run(tmp_path, *words, f"{source}/", f"{mounted.path}/in/")
    assert run(tmp_path, *words, f"{source}/", f"{mounted.path}/in/") == ""
    (source / "blob").write_bytes(SEEDS["blob"] + b"more")
    (source / "empty").unlink()
    assert len(run(tmp_path, *words, f"{source}/", f"{mounted.path}/in/").splitlines()) <= 3
    run(tmp_path, "rsync", "-a", f"{mounted.path}/in/", f"{back}/")
    assert on_disk(back) == on_disk(source)
    mounted.wait_until_settled()
    mounted.remount()
    assert run(tmp_path, *words, f"{source}/", f"{mounted.path}/in/") == ""
    assert run(tmp_path, *words, f"{mounted.path}/in/", f"{back}/") == ""
    assert below(server, "in") == on_disk(source)


_COUNTER = """
import sqlite3, sys
db = sqlite3.connect("data.db", timeout=60, isolation_level=None)
if sys.argv[1] != "WAL":  # that mode is of the file: two at once can not set it
    db.execute("PRAGMA journal_mode=" + sys.argv[1])
for _ in range(10):
    db.execute("BEGIN IMMEDIATE"); db.execute("UPDATE t SET n = n + 1"); db.execute("COMMIT")
db.close()
"""


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.needs_program("sqlite3")
def test_two_sqlites_count_correctly(server: Server, mounted: MountedJob, tmp_path: Path, mode: str) -> None:
    """vfs/semantics.md 2.14, 2.15: locks work among processes of this machine; mmap, shared-writable, works."""
    make = f"PRAGMA journal_mode={mode}; CREATE TABLE t (n); INSERT INTO t VALUES (0);"
    run(mounted.path, "sqlite3", "data.db", make)
    count = f"{shlex.quote(sys.executable)} -c '{_COUNTER}' {mode}"
    both = f"{count} & {count}; wait $!"
    run(mounted.path, "bash", "-e", "-c", both, timeout=80)
    ask = ("sqlite3", "data.db", "SELECT n FROM t; PRAGMA integrity_check;")
    assert run(mounted.path, *ask) == "20\nok\n"
    mounted.wait_until_settled()
    assert set(visible(server)) == {"data.db"}
    (tmp_path / "data.db").write_bytes(server.store.read("data.db"))
    assert run(tmp_path, *ask) == "20\nok\n"
    mounted.remount()
    assert run(mounted.path, *ask) == "20\nok\n"


def test_a_python_venv_can_be_created_and_used(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 2: --local-symlinks, for people who make a venv in a workspace."""
    mounted = mount(local_symlinks=True)
    program = """
import mmap, os
with open("counters", "a+b") as file:  # as prometheus_client has them
    file.truncate(10000)
    with mmap.mmap(file.fileno(), 10000) as memory:
        memory[5000:5005] = b"hello"; memory.flush()
    assert os.pread(file.fileno(), 10001, 0) == bytes(5000) + b"hello" + bytes(4995)
print("well")
"""
    run(mounted.path, sys.executable, "-m", "venv", "--without-pip", "env", timeout=80)
    assert (mounted.path / "env/bin/python").is_symlink()
    assert run(mounted.path, "env/bin/python", "-c", program) == "well\n"
    mounted.wait_until_settled()
    assert server.store.read("counters") == bytes(5000) + b"hello" + bytes(4995)
    mounted.remount()
    assert run(mounted.path, "env/bin/python", "-c", "print('well')") == "well\n"


# a conflict copy and the file beside it, under the tools that people use on them: as on a disk

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
@pytest.mark.needs_program("git", "rsync")
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
