"""Editors as people use them: a save is one new version on the server, and their own files stay on this machine."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from tests.support.machine import needing
from tests.support.mounts import MountedJob, run
from tests.support.programs import PROGRAMS, needs_all
from tests.support.serverside import doubled, untimed, visible
from tests.support.terminal import terminal
from tests.support.waiting import eventually

from jobfs.emulator import Server

NOTES = "first line\nsecond line\nthird line\n"
#: Programs whose save is one new version at once: they sync, or rename a draft.
SYNCING = [each for each in PROGRAMS if each.replaces and (each.syncs or each.by_rename)]
EDITED = NOTES.replace("second", "2nd").replace("third", "3rd")


@pytest.fixture
def file(server: Server, mounted: MountedJob) -> Path:
    """A file of the job, with a neighbour that nobody is to touch."""
    server.store.seed({"dir/notes.md": NOTES, "dir/other.md": "untouched"}, age=60)
    return mounted.path / "dir" / "notes.md"


def saves(server: Server) -> int:
    """How many new contents were sent."""
    return len(server.log.entries("create"))


def only_the_edit_is_there(server: Server, mounted: MountedJob, edited: str = EDITED) -> None:
    """The server has the edited file, once, its neighbour, and nothing that the editor made for itself."""
    mounted.wait_until_settled({"dir": None, "dir/notes.md": edited.encode(), "dir/other.md": b"untouched"})
    assert doubled(server) == []
    assert mounted.status()["conflicts"] == []
    assert mounted.status()["failed"] == []


@pytest.mark.parametrize(
    ("editor", "backupcopy", "more"),
    [
        needing("vim", "yes", "backup"),
        needing("vim", "auto", "undofile"),
        needing("nvim", "no", "undofile"),
    ],
)
def test_vim_saves_twice_with_any_backup_setting(
    server: Server, mounted: MountedJob, file: Path, editor: str, backupcopy: str, more: str
) -> None:
    """vfs/semantics.md 4: a rename to a scratch name, followed by a new file of the real name, is one save of that file."""
    options = f"set backupcopy={backupcopy} writebackup backupskip= fsync swapfile undodir=. backupdir=. directory=. {more}"
    start = ("vim", "-u", "NONE", "-N", "-es") if editor == "vim" else ("nvim", "-u", "NONE", "--headless")
    inode = file.stat().st_ino
    run(
        file.parent, *start, "--cmd", options, "notes.md", "-c", "%s/second/2nd/", "-c", "w",
        "-c", "%s/third/3rd/", "-c", "wq",
    )  # fmt: skip
    assert server.store.read("dir/notes.md") == EDITED.encode(), "its fsync is true"
    only_the_edit_is_there(server, mounted)
    assert saves(server) == 2
    if backupcopy == "yes":
        assert file.stat().st_ino == inode
    if more == "backup":
        assert file.with_name("notes.md~").read_text() == NOTES.replace("second", "2nd")


@pytest.mark.needs_program("vim", "tmux")
def test_vim_knows_its_own_save_from_a_foreign_change(
    server: Server, mounted: MountedJob, file: Path
) -> None:
    """vfs/semantics.md 2: mtime: an editor must not see its own save as a foreign change."""
    with terminal(mounted.home, file.parent, "vim", "notes.md") as vim:
        vim.shows("third line")
        vim.lines(":%s/second/2nd/", ":w")
        vim.shows("written")
        mounted.wait_until_settled()
        vim.lines(":checktime", ":%s/third/3rd/", ":w", ":set modified?")
        vim.shows("nomodified")
        mounted.wait_until_settled()
        vim.lines(":checktime", ":set fileformat?")
        vim.shows("fileformat=unix")
        assert "WARNING" not in vim.screen()
        assert "changed since" not in vim.screen()
        vim.lines(":q")
        vim.ends()
    only_the_edit_is_there(server, mounted)
    assert saves(server) == 2


@pytest.mark.needs_program("vim", "tmux")
def test_vim_notices_a_change_of_the_job(server: Server, mounted: MountedJob, file: Path) -> None:
    """vfs/semantics.md 1: a change made by the job is visible to a new stat at the latest after the TTL."""
    with terminal(mounted.home, file.parent, "vim", "-u", "NONE", "-N", "notes.md") as vim:
        vim.shows("third line")
        vim.lines(":%s/second/2nd/")
        server.store.write("dir/notes.md", "the job's\n")
        eventually(lambda: file.stat().st_size == len("the job's\n"))
        vim.lines(":w")
        vim.shows("changed since reading")
        vim.type("n")
        vim.lines("", ":e!")
        vim.shows("the job's")
        vim.lines(":q")
        vim.ends()
    only_the_edit_is_there(server, mounted, "the job's\n")


@pytest.mark.needs_program("nano", "tmux")
def test_nano_told_to_write_over_a_changed_file_keeps_both(
    server: Server, mounted: MountedJob, file: Path
) -> None:
    """vfs/semantics.md 4.42: an editor that asks has not read the version that it asks about."""
    with terminal(mounted.home, file.parent, "nano", "notes.md") as nano:
        nano.shows("third line")
        server.store.write("dir/notes.md", "the job's\n")
        eventually(lambda: file.stat().st_size == len("the job's\n"))
        nano.type("my ")
        nano.keys("C-o", "Enter")
        nano.shows("modified since")
        nano.type("y")
        nano.shows("Wrote")
        nano.keys("C-x")
        nano.ends()
    mounted.wait_until_settled()
    files = untimed(visible(server))
    found = files["dir/notes.md"], files["dir/notes.conflict.md"], files["dir/other.md"]
    assert found == (f"my {NOTES}".encode(), b"the job's\n", b"untouched")


@pytest.mark.needs_program("emacs")
def test_emacs_saves_with_its_backups_and_lock_files(server: Server, mounted: MountedJob, file: Path) -> None:
    program = """(progn
      (setq backup-enable-predicate (lambda (name) t)) ; in the directory for temporary files too
      (setq backup-by-copying nil make-backup-files t create-lockfiles t)
      (find-file "notes.md")
      (search-forward "second") (replace-match "2nd") (save-buffer)
      (search-forward "third") (replace-match "3rd") (save-buffer)
      (unless (verify-visited-file-modtime) (error "it thinks that another has changed it"))
      (kill-buffer))"""
    run(file.parent, "emacs", "-Q", "--batch", "--eval", program)
    only_the_edit_is_there(server, mounted)
    assert saves(server) == 1, "in batch mode it does not sync, and both are sent as one"
    assert (file.parent / "notes.md~").read_text() == NOTES, "the backup is on this machine"


@pytest.mark.needs_program("emacs", "tmux")
def test_a_second_emacs_finds_the_lock_of_the_first(server: Server, mounted: MountedJob, file: Path) -> None:
    """vfs/semantics.md 2: symlink: a link of a scratch name is kept on this machine; Emacs' locks are such links."""
    with terminal(mounted.home, file.parent, "emacs", "-Q", "-nw", "notes.md") as emacs:
        emacs.shows("third line")
        emacs.type("mine ")
        eventually(lambda: (file.parent / ".#notes.md").is_symlink(), "it has locked the file")
        with terminal(mounted.home, file.parent, "emacs", "-Q", "-nw", "notes.md") as other:
            other.shows("third line")
            other.type("x")
            other.shows("locked by")
            other.type("q")
            other.keys("C-x", "C-c")
            other.ends()
        emacs.keys("C-x", "C-s")
        emacs.shows("Wrote ")
        emacs.keys("C-x", "C-c")
        emacs.ends()
    assert not os.path.lexists(file.parent / ".#notes.md")
    only_the_edit_is_there(server, mounted, "mine " + NOTES)


@needs_all(SYNCING)
def test_each_way_in_which_editors_write_saves_the_file(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4: after an editor's fsync, and its rename, the server has it; what it made for itself is gone."""
    editors = {f"dir{number}/notes.md": each for number, each in enumerate(SYNCING)}
    server.store.seed(dict.fromkeys(editors, NOTES), age=60)
    edited = sorted([*NOTES.splitlines(), "mine"])

    def text(path: str) -> list[str]:
        return sorted(server.store.read(path).decode().splitlines())

    for path, editor in editors.items():
        run(mounted.path, *editor.command(mounted.path / path, "mine"))
        assert not editor.syncs or text(path) == edited, editor.name
    mounted.wait_until_settled()
    for path, editor in editors.items():
        file = mounted.path / path
        there = (text(path), os.listdir(file.parent), file.stat().st_mode & 0o777)
        assert there == (edited, ["notes.md"], 0o644), editor.name
    assert {path for path, content in visible(server).items() if content is not None} == editors.keys()
    assert (doubled(server), mounted.status()["conflicts"], mounted.status()["failed"]) == ([], [], [])
    # A mount that has made a few files also asks what names the server takes.
    sent = [
        entry.target.partition("/")[0] for entry in server.log.entries("create") if "notes" in entry.target
    ]
    saves = {path.partition("/")[0]: editor.syncs or 1 for path, editor in editors.items()}
    assert Counter(sent) == saves
