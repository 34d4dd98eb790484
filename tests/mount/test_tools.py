"""The programs people use, on a real mount: what they leave must be on the server, byte for byte."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.support.files import on_disk, saved
from tests.support.mounts import MountedJob, run
from tests.support.serverside import below, doubled, visible
from tests.support.terminal import terminal
from tests.support.waiting import PATIENCE, eventually, readable

from jobfs.emulator import Server

NOTES = "first line\nsecond line\nthird line\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree on the local disk: nested, with an empty file, binary data and names beyond ASCII."""
    root = tmp_path / "tree"
    for name, content in {
        "README.md": b"# readme\n",
        "empty": b"",
        "src/main.py": b"print('needle')\n",
        "src/pkg/util.py": b"needle = 1\n" * 50,
        "src/pkg/blob.bin": bytes(range(256)) * 1200,
        "docs/\u00fcber uns.txt": "gr\u00fc\u00dfe\n".encode(),
        "docs/a/b/c/deep.txt": b"deep\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "docs/nothing").mkdir()
    return root


def test_vim_saves_in_ex_mode(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"notes.md": NOTES, "other.md": "untouched"})
    run(mounted.path, "vim", "-u", "NONE", "-N", "-es", "notes.md", "-c", "%s/second/2nd/", "-c", "wq")
    assert server.store.read("notes.md") == NOTES.replace("second", "2nd").encode(), "vim's fsync is true"
    mounted.settled()
    assert visible(server) == {
        "notes.md": NOTES.replace("second", "2nd").encode(),
        "other.md": b"untouched",
    }


@pytest.mark.parametrize("backupcopy", ["yes", "no"])
def test_vim_keeps_a_backup_on_this_machine_only(
    server: Server, mounted: MountedJob, backupcopy: str
) -> None:
    """semantics 4: a backup (a scratch name) stays here, and what follows is one save of that file."""
    server.store.seed({"src/notes.md": NOTES})
    script = [
        "-c",
        f"set backup backupskip= backupcopy={backupcopy}",
        "-c",
        "$d",
        "-c",
        "w",
        "-c",
        "1d",
        "-c",
        "wq",
    ]
    run(mounted.path / "src", "vim", "-u", "NONE", "-N", "-es", "notes.md", *script)
    mounted.settled()
    assert visible(server) == {"src": None, "src/notes.md": b"second line\n"}
    assert (mounted.path / "src/notes.md~").read_bytes() == b"first line\nsecond line\n"


def test_vim_in_a_terminal_opens_edits_and_saves_twice(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"notes.md": NOTES})
    with terminal(mounted.home, mounted.path, "vim", "-u", "NONE", "-N", "notes.md") as vim:
        vim.shows("third line")
        vim.keys("g", "g", "O")
        vim.type("typed by a person")
        vim.keys("Escape")
        vim.type(":w")
        vim.keys("Enter")
        vim.shows("written")
        assert server.store.read("notes.md") == b"typed by a person\n" + NOTES.encode()
        vim.keys("G", "o")
        vim.type("and again")
        vim.keys("Escape")
        vim.type(":wq")
        vim.keys("Enter")
        vim.ends()
    mounted.settled()
    assert visible(server) == {"notes.md": b"typed by a person\n" + NOTES.encode() + b"and again\n"}


def test_nano_in_a_terminal_edits_and_saves(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"notes.md": NOTES})
    with terminal(mounted.home, mounted.path, "nano", "--ignorercfiles", "notes.md") as nano:
        nano.shows("third line")
        nano.type("typed in nano: ")
        nano.keys("C-o")
        nano.shows("Backup File")  # the prompt itself differs from version to version
        nano.keys("Enter")
        nano.shows("Wrote 3 lines")
        nano.keys("C-x")
        nano.ends()
    mounted.settled()
    assert visible(server) == {"notes.md": b"typed in nano: " + NOTES.encode()}


def test_sed_in_place_changes_every_file(server: Server, mounted: MountedJob) -> None:
    server.store.seed({f"part{number}.txt": f"old {number}\n" for number in range(8)})
    run(mounted.path, "sh", "-c", "sed -i s/old/new/ part*.txt")
    mounted.settled()
    assert visible(server) == {f"part{number}.txt": f"new {number}\n".encode() for number in range(8)}
    assert doubled(server) == []


def test_cp_brings_a_file_in_over_another_and_out(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    server.store.seed({"there.bin": b"shorter than what comes"})
    content = os.urandom(300_000)
    (tmp_path / "local.bin").write_bytes(content)
    run(mounted.path, "cp", tmp_path / "local.bin", "new.bin")
    run(mounted.path, "cp", tmp_path / "local.bin", "there.bin")
    mounted.settled()
    assert visible(server) == {"there.bin": content, "new.bin": content}
    run(mounted.path, "cp", "there.bin", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == content


def test_cp_r_brings_a_tree_in_and_out(
    server: Server, mounted: MountedJob, tree: Path, tmp_path: Path
) -> None:
    run(mounted.path, "cp", "-r", tree, "in")
    mounted.settled()
    assert below(server, "in") == on_disk(tree)
    run(mounted.path, "cp", "-r", "in", "copy")
    run(mounted.path, "cp", "-r", "copy", tmp_path / "out")
    assert on_disk(tmp_path / "out") == on_disk(tree)
    mounted.settled()
    assert below(server, "copy") == on_disk(tree)


def test_mv_moves_within_the_mount_in_and_out(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    server.store.seed({"a/one.txt": "one", "a/two.txt": "two", "b": None})
    id_of_one = server.store.item("a/one.txt").id
    (tmp_path / "local.txt").write_text("local")
    run(mounted.path, "mv", "a/one.txt", "b/uno.txt")
    assert server.store.item("b/uno.txt").id == id_of_one, "the same item, moved"
    run(mounted.path, "mv", tmp_path / "local.txt", "a/two.txt")
    run(mounted.path, "mv", "a", "b/inner")
    mounted.settled()
    assert visible(server) == {
        "b": None,
        "b/uno.txt": b"one",
        "b/inner": None,
        "b/inner/two.txt": b"local",
    }
    run(mounted.path, "mv", "b/inner", tmp_path / "taken")
    assert (tmp_path / "taken/two.txt").read_text() == "local"
    mounted.settled()
    assert visible(server) == {"b": None, "b/uno.txt": b"one"}


def test_rm_r_removes_a_tree_and_only_that(server: Server, mounted: MountedJob, tree: Path) -> None:
    contents = {f"gone/{name}": content for name, content in on_disk(tree).items()}
    server.store.seed({**contents, "kept/file": "kept"})
    run(mounted.path, "rm", "-r", "gone")
    mounted.settled()
    assert visible(server) == {"kept": None, "kept/file": b"kept"}
    assert os.listdir(mounted.path) == ["kept"]


def test_grep_r_finds_the_same_as_on_a_local_disk(server: Server, mounted: MountedJob, tree: Path) -> None:
    server.store.seed(on_disk(tree))
    expected = sorted(run(tree, "grep", "-rn", "needle", ".").splitlines())
    assert sorted(run(mounted.path, "grep", "-rn", "needle", ".").splitlines()) == expected
    assert len(expected) == 51


def test_find_and_ls_show_the_same_names_and_sizes(server: Server, mounted: MountedJob, tree: Path) -> None:
    server.store.seed(on_disk(tree))
    command = ["find", ".", "(", "-type", "f", "-printf", "%p %s\n", ")", "-o", "-print"]
    expected = sorted(run(tree, *command).splitlines())
    assert sorted(run(mounted.path, *command).splitlines()) == expected
    assert run(mounted.path, "ls", "-R") == run(tree, "ls", "-R")


def test_mkdir_p_makes_every_directory_on_the_server(server: Server, mounted: MountedJob) -> None:
    run(mounted.path, "mkdir", "-p", "a/b/c/d")
    run(mounted.path, "mkdir", "-p", "a/b/x")
    assert visible(server) == dict.fromkeys(["a", "a/b", "a/b/c", "a/b/c/d", "a/b/x"])


def test_tar_packs_and_unpacks_in_the_mount(
    server: Server, mounted: MountedJob, tree: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "tree.tar", "w") as archive:
        archive.add(tree, "unpacked")
    run(mounted.path, "tar", "-xf", tmp_path / "tree.tar")
    run(mounted.path, "tar", "-czf", "packed.tgz", "unpacked")
    mounted.settled()
    assert below(server, "unpacked") == on_disk(tree)
    (tmp_path / "packed.tgz").write_bytes(server.store.read("packed.tgz"))
    (tmp_path / "again").mkdir()
    run(tmp_path, "tar", "-xzf", "packed.tgz", "-C", "again")
    assert on_disk(tmp_path / "again/unpacked") == on_disk(tree)


def test_git_makes_a_repository_that_is_whole_on_the_server(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    server.store.seed({"work/main.py": "print(1)\n", "work/sub/other.py": "print(2)\n"})
    work = mounted.path / "work"

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        return run(work, "git", *who, *arguments, home=mounted.home)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (work / "main.py").write_text("print(1)\nprint(3)\n")
    assert git("status", "--porcelain") == " M main.py\n"
    git("commit", "-q", "-a", "-m", "second")
    assert git("status", "--porcelain") == ""
    assert git("log", "--format=%s") == "second\nfirst\n"
    mounted.settled()
    copy = tmp_path / "copy"
    for name, content in below(server, "work").items():
        if content is None:
            (copy / name).mkdir(parents=True, exist_ok=True)
        else:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(content)
    run(copy, "git", "fsck", "--strict", home=mounted.home)
    assert run(copy, "git", "status", "--porcelain", home=mounted.home) == ""
    assert run(copy, "git", "show", "HEAD:main.py", home=mounted.home) == "print(1)\nprint(3)\n"


def test_rsync_copies_and_then_has_nothing_to_do(server: Server, mounted: MountedJob, tree: Path) -> None:
    """semantics 2: the times that utimens sets are remembered on this machine, so that rsync trusts them."""
    os.utime(tree / "README.md", (1_500_000_000, 1_500_000_000))
    run(mounted.path, "rsync", "-a", f"{tree}/", "synced/")
    mounted.settled()
    assert below(server, "synced") == on_disk(tree)
    assert (mounted.path / "synced/README.md").stat().st_mtime == 1_500_000_000
    again = run(mounted.path, "rsync", "-ai", "--omit-dir-times", f"{tree}/", "synced/")
    assert again == ""
    (tree / "README.md").write_bytes(b"# changed\n")
    run(mounted.path, "rsync", "-a", "--delete", f"{tree}/", "synced/")
    mounted.settled()
    assert below(server, "synced") == on_disk(tree)


def test_sqlite_commits_to_the_server(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    script = "create table t(n); insert into t values (1), (2); update t set n = n + 10;"
    run(mounted.path, "sqlite3", "data.db", script)
    assert run(mounted.path, "sqlite3", "data.db", "select sum(n) from t") == "23\n"
    mounted.settled()
    assert list(visible(server)) == ["data.db"]
    (tmp_path / "copy.db").write_bytes(server.store.read("data.db"))
    database = sqlite3.connect(tmp_path / "copy.db")
    try:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select n from t order by n").fetchall() == [(11,), (12,)]
    finally:
        database.close()


def test_echo_appends_to_a_file_of_the_job(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"log.txt": "job: started\n"})
    for number in range(3):
        run(mounted.path, "sh", "-c", f"echo user {number} >> log.txt")
    mounted.settled()
    assert visible(server) == {"log.txt": b"job: started\nuser 0\nuser 1\nuser 2\n"}


def test_tail_f_follows_a_log_that_the_job_grows(server: Server, mounted: MountedJob) -> None:
    """semantics 3.14: a reader at end of file follows the new version within the TTL."""
    server.store.seed({"run.log": "line 0\n"})
    command = ["tail", "-n", "+1", "-s", "0.1", "-f", str(mounted.path / "run.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        try:
            for number in range(4):
                assert readable(tail.stdout, PATIENCE), f"line {number} is not shown; {mounted.log}"
                assert os.read(tail.stdout.fileno(), 4096) == b"line %d\n" % number
                server.store.append("run.log", f"line {number + 1}\n")
        finally:
            tail.kill()


def test_a_memory_map_reads_and_writes(server: Server, mounted: MountedJob) -> None:
    """semantics 2.15: mmap, read and shared-writable, works."""
    server.store.seed({"map.bin": bytes(10_000)})
    code = (
        "import mmap, os\n"
        "with open('map.bin', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:\n"
        "    assert m[:] == bytes(10_000)\n"
        "    m[5_000:5_005] = b'hello'\n"
        "    m.flush()\n"
    )
    run(mounted.path, "python3", "-c", code)
    mounted.settled()
    expected = bytearray(10_000)
    expected[5_000:5_005] = b"hello"
    assert visible(server) == {"map.bin": bytes(expected)}


def test_locks_hold_between_processes(server: Server, mounted: MountedJob) -> None:
    """semantics 2.14: locks (flock, fcntl) work among processes of this machine."""
    server.store.seed({"lock": ""})
    assert run(mounted.path, "flock", "-n", "lock", "sh", "-c", "flock -n lock true || echo held") == "held\n"
    assert run(mounted.path, "flock", "-n", "lock", "echo", "free") == "free\n"


def test_a_file_opened_again_shows_what_it_is_now_and_not_what_it_was(
    server: Server, mounted: MountedJob
) -> None:
    """semantics 3: open revalidates; own changes are visible at once, the job's within the TTL."""
    one, two, three = (bytes([letter]) * 9000 for letter in b"123")
    server.store.seed({"a": one, "b": two, "d/c": three}, age=60)
    a, b, c = (mounted.path / name for name in ("a", "b", "d/c"))
    for _ in range(3):
        assert [path.read_bytes() for path in (a, b, c)] == [one, two, three]
    b.rename(mounted.path / "kept")
    a.rename(b)
    (mounted.path / "kept").rename(a)
    for _ in range(3):
        assert [path.read_bytes() for path in (a, b, c)] == [two, one, three]
    with a.open("rb") as still:
        assert still.read(10) == two[:10]
        saved(a, three)
        for _ in range(2):
            assert a.read_bytes() == three
    for _ in range(3):
        assert [path.read_bytes() for path in (a, b, c)] == [three, one, three]
    server.store.write("d/c", one)
    eventually(lambda: c.read_bytes() == one)
    for _ in range(3):
        assert c.read_bytes() == one
    server.store.move("d/c", "b")
    eventually(lambda: not c.exists())
    for _ in range(3):
        assert b.read_bytes() == one
    server.store.move("b", "d/c")
    server.store.seed({"b": two}, age=60)
    eventually(lambda: c.exists() and b.read_bytes() == two)
    for _ in range(3):
        assert [path.read_bytes() for path in (a, b, c)] == [three, two, one]
