"""The programs people use, on a real mount: what they leave must be on the server, byte for byte."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from tests.support.files import on_disk, saved
from tests.support.mounts import MountedJob, run
from tests.support.serverside import below, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server


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
