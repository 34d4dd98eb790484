"""Programs that read a file and save it later, the job writing in between (vfs/semantics.md 4, What a save replaces)."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob, environment, gone_afterwards, run
from tests.support.serverside import untimed, visible
from tests.support.terminal import terminal
from tests.support.waiting import eventually

from jobfs.emulator import Server

OLD, JOB = b'"old"\n', b'"the job\'s text, which nobody has read"\n'

#: What a program does between its read and its save: it says that it has read, and waits to be let go on.
_WAIT = "touch $ready; until [ -e $go ]; do sleep 0.02; done"
_PYTHON = """
import mmap, os, subprocess, sys, threading, time
name = sys.argv[1]
def read():
    with open(name) as file:
        return file.read()
def wait():
    open(os.environ["ready"], "w").close()
    while not os.path.exists(os.environ["go"]):
        time.sleep(0.02)
def save(name=name):
    with open(name, "w") as file:
        file.write("mine")
"""


def _python(*lines: str) -> list[str]:
    return [sys.executable, "-c", _PYTHON + "\n".join(lines), "$f"]


def _shell(script: str) -> list[str]:
    return ["bash", "-c", script.replace("WAIT", _WAIT)]


def _vim(program: str, *options: str) -> list[str]:
    start = ["vim", "-u", "NONE", "-N", "-es"] if program == "vim" else [program, "-u", "NONE", "--headless"]
    settings = ["noautoread", "backupskip=", "backupdir=.", "directory=.", *options]
    wait = f"call system('{_WAIT}')"
    keep = (
        "autocmd FileChangedShell * let v:fcs_choice = ''"  # a person would answer that the text is to stay
    )
    edit = ["-c", "s/old/mine/", "-c", wait, "-c", "wq!"]
    return [*start, "--cmd", "set " + " ".join(settings), "--cmd", keep, "$f", *edit]


_EMACS = f"""(progn
  (find-file "$f")
  (insert "mine")
  (call-process "sh" nil nil nil "-c" "{_WAIT}")
  (fset 'yes-or-no-p (lambda (&rest _) t))
  (save-buffer))"""
_NODE = """
const fs = require("fs"), {execSync} = require("child_process");
fs.readFileSync("$f");
execSync("WAIT");
fs.promises.open("$f", "w").then(file => file.writeFile("mine").then(() => file.close()));
""".replace("WAIT", _WAIT)

_SPONGE = 'import sys; sys.stdin.read(); open(sys.argv[1], "w").write("mine")'

#: Each reads its file, waits, and replaces what is in it.
PROGRAMS = {
    "python": _python("read(); wait(); save()"),
    "python, by a rename": _python("read(); wait(); save(name + '.new'); os.replace(name + '.new', name)"),
    "python, a thread reads": _python(
        "thread = threading.Thread(target=read); thread.start(); thread.join(); wait(); save()"
    ),
    "python, by a map": _python(
        "file = open(name); mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:]; file.close(); wait(); save()"
    ),
    "python, a child reads": _python("subprocess.run(['cat', name]); wait(); save()"),
    "python, truncate": _python(
        "read(); wait(); os.truncate(name, 0); file = open(name, 'a'); file.write('mine'); file.close()"
    ),
    "shell": _shell("t=$(cat $f); WAIT; echo mine > $f"),
    "shell, built in": _shell("t=$(<$f); WAIT; echo mine > $f"),
    "shell, line by line": _shell("while read line; do :; done < $f; WAIT; echo mine > $f"),
    "jq and mv": _shell("jq '\"mine\"' $f > $f.new; WAIT; mv $f.new $f"),
    "cp and back": _shell("cp $f $t; echo mine > $t; WAIT; cp $t $f"),
    "one command after another": _shell("bash -c 'cat $f'; WAIT; setsid bash -c 'echo mine > $f'; sleep 0.1"),
    "sponge": _shell(f"{{ cat $f; WAIT; }} | {shlex.quote(sys.executable)} -c '{_SPONGE}' $f"),
    "sed -i": _shell("sed -i -e '1e WAIT' -e s/old/mine/ $f"),
    "perl -pi": _shell("perl -pi -e 'system(q(WAIT)); s/old/mine/' $f"),
    "sort -o": _shell("mkfifo $t; { WAIT; echo mine; } > $t & sort -o $f $f $t; wait"),
    "ed": _shell("printf '!WAIT\\n1s/old/mine/\\nw\\nq\\n' | ed -s $f"),
    "vim": _vim("vim", "writebackup"),
    "vim, backup by a copy": _vim("vim", "writebackup", "backup", "backupcopy=yes"),
    "vim, backup by a rename": _vim("vim", "writebackup", "backup", "backupcopy=no"),
    "vim, no backup": _vim("vim", "nowritebackup", "nobackup"),
    "nvim": _vim("nvim"),
    "emacs": ["emacs", "-Q", "--batch", "--eval", _EMACS],
    "node, as VS Code does": ["node", "-e", _NODE],
}  # fmt: skip


#: The file of each.
FILES = {name: f"file{number}" for number, name in enumerate(PROGRAMS)}


@contextmanager
def _edited(mounted: MountedJob, desk: Path) -> Iterator[None]:
    """Every program of the table has read its file, and waits; in the end each saves, and all is sent."""
    mounted.server.store.seed(dict.fromkeys(FILES.values(), OLD), age=60)
    answer, go, running = desk / "answer", desk / "go", dict[str, subprocess.Popen[str]]()
    answer.write_text("y\n")  # of the person whom vim asks whether to write over what has changed
    try:
        for name, file in FILES.items():
            path, ready = str(mounted.path / file), str(desk / f"{file}.ready")
            values = {"f": path, "t": str(desk / file), "go": str(go), "ready": ready}
            with answer.open() as stdin:
                running[name] = subprocess.Popen(
                    [word.replace("$f", path) for word in PROGRAMS[name]], env=environment(mounted.home, None) | values,
                    cwd=desk, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    start_new_session=True,
                )  # fmt: skip
        for name, file in FILES.items():
            eventually((desk / f"{file}.ready").exists, f"{name} to read its file", timeout=60)
        yield
        go.touch()
        for name, process in running.items():
            told = process.communicate(timeout=30)[0]
            assert process.returncode == 0, f"{name}: {told}"
        mounted.wait_until_settled()
    finally:
        for process in running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _after(server: Server) -> dict[str, list[bytes]]:
    """By program: what the server has of its file, then its second versions."""
    tree = {path: data or b"" for path, data in visible(server).items()}
    beside = {
        name: [tree[path] for path in tree if path.startswith(f"{file}.conflict")]
        for name, file in FILES.items()
    }
    return {name: [tree[file], *beside[name]] for name, file in FILES.items()}


def _shows(path: Path, content: bytes) -> bool:
    """True if the file has that size; it is not opened."""
    return path.stat().st_size == len(content)


@pytest.mark.parametrize("shown", [False, True], ids=["at once", "after the TTL"])
def test_a_save_keeps_what_its_program_has_not_read(
    server: Server, mounted: MountedJob, tmp_path: Path, shown: bool
) -> None:
    """vfs/semantics.md 4.42, 4.43, 4.45: the job's version, which no program has read, is kept beside."""
    with _edited(mounted, tmp_path):
        for file in FILES.values():
            server.store.write(file, JOB)
        for file in FILES.values() if shown else ():
            eventually(partial(_shows, mounted.path / file, JOB))
    lost = {
        name: versions
        for name, versions in _after(server).items()
        if versions[1:] != [JOB] or b"mine" not in versions[0]
    }
    assert not lost


def test_a_save_makes_no_second_version_where_the_job_has_written_nothing(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.44: what this mount has placed needs no reader."""
    with _edited(mounted, tmp_path):
        pass
    assert {name: len(versions) for name, versions in _after(server).items()} == dict.fromkeys(PROGRAMS, 1)


def test_programs_that_save_in_turn_make_no_second_version(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.44: who has read bytes that are not sent yet has read what they replace."""
    saves = ("sed -i s/$/+/", "sed -i~ s/$/+/", "perl -i~ -pe s/$/+/", "echo + >>", "echo +| tee")
    pairs = {f"file{number}": pair for number, pair in enumerate(product(saves, repeat=2))}
    server.store.seed(dict.fromkeys(pairs, OLD), age=60)
    server.faults.set_rate("unavailable", 1.0, on="create")
    for file, (one, other) in pairs.items():
        run(mounted.path, "sh", "-c", f"{one} {file}; {other} {file}; mv {file} {file}~; echo new > {file}")
    server.faults.clear()
    mounted.wait_until_settled()
    assert visible(server).keys() == pairs.keys()


def test_who_is_near_a_reader_keeps_what_the_job_wrote(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.43, 4.44."""
    server.store.seed({"file": OLD}, age=60)
    server.faults.set_rate("unavailable", 1.0, on="create")
    run(mounted.path, "sh", "-c", "echo mine > file; cat file")
    server.faults.clear()
    mounted.wait_until_settled()
    server.store.write("file", JOB)
    eventually(partial(_shows, mounted.path / "file", JOB))
    run(mounted.path, "sh", "-c", "echo new > file")
    mounted.wait_until_settled()
    assert untimed(visible(server)) == {"file": b"new\n", "file.conflict": JOB}


def test_nano_that_is_told_to_write_over_it_keeps_what_has_changed(
    server: Server, mounted: MountedJob
) -> None:
    """vfs/semantics.md 4.42: an editor that asks has not read the version that it asks about."""
    server.store.seed({"file": OLD}, age=60)
    with terminal(mounted.home, mounted.path, "nano", "file") as nano:
        nano.shows("old")
        server.store.write("file", JOB)
        eventually(partial(_shows, mounted.path / "file", JOB))
        nano.type("mine")
        nano.keys("C-o", "Enter")
        nano.shows("modified since")
        nano.type("y")
        nano.shows("Wrote")
        nano.keys("C-x")
        nano.ends()
    mounted.wait_until_settled()
    assert untimed(visible(server)) == {"file": b"mine" + OLD, "file.conflict": JOB}


@contextmanager
def _run(mounted: MountedJob, desk: Path, command: list[str]) -> Iterator[None]:
    """A program that does one half of its work before the block and the other half after it; then all is sent."""
    ready, go = desk / "ready", desk / "go"
    environ = environment(mounted.home, None) | {"ready": str(ready), "go": str(go), "d": str(desk)}
    with subprocess.Popen(command, env=environ, cwd=mounted.path, stdin=subprocess.DEVNULL) as program:
        try:
            eventually(ready.exists, f"{command} to wait", timeout=60)
            yield
            go.touch()
            assert program.wait(60) == 0
        finally:
            program.kill()
    mounted.wait_until_settled()


def _edits(*lines: str) -> list[str]:
    """An editor reads `file`, waits, and saves it after these lines."""
    return [sys.executable, "-c", _PYTHON + "\n".join(("read(); wait()", *lines, "save()")), "file"]


def _job_writes(mounted: MountedJob, text: bytes = JOB) -> None:
    """The job writes `file`, and the mount shows it."""
    mounted.server.store.write("file", text)
    eventually(partial(_shows, mounted.path / "file", text))


@pytest.mark.parametrize("others", [101, 1200])
def test_short_programs_that_read_a_file_do_not_make_an_editor_replace_it(
    server: Server, mounted: MountedJob, tmp_path: Path, others: int
) -> None:
    """vfs/semantics.md 4.43, 4.46: the reads of other programs never evict what the editor has read."""
    server.store.seed({"file": OLD}, age=60)
    with _run(mounted, tmp_path, _edits()):
        _job_writes(mounted)
        run(mounted.path, "sh", "-c", f"for i in $(seq {others}); do cat file; done >/dev/null")
    assert untimed(visible(server)) == {"file": b"mine", "file.conflict": JOB}


def test_an_editor_keeps_what_only_its_child_has_read(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.43: what a program has read itself counts before what its children have read since."""
    server.store.seed({"file": OLD}, age=60)
    search = "subprocess.run(['cat', name], stdout=subprocess.DEVNULL, check=True)"
    with _run(mounted, tmp_path, _edits(search)):
        _job_writes(mounted)
    assert untimed(visible(server)) == {"file": b"mine", "file.conflict": JOB}


def test_a_shell_that_rewrites_what_its_children_read_makes_no_copy(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.43: a program that has only written a file knows what its children have read since."""
    turns = 4
    server.store.seed({"file": OLD}, age=60)
    turn = 'x=$(cat file); echo "$x s" >file; touch $d/done$i; until [ -e $d/go$i ]; do sleep 0.02; done'
    script = f"touch $ready; for i in $(seq {turns}); do {turn}; done"
    with _run(mounted, tmp_path, ["bash", "-c", script]):
        for number in range(1, turns + 1):
            eventually((tmp_path / f"done{number}").exists, f"turn {number}")
            mounted.wait_until_settled()
            _job_writes(mounted, JOB * number)
            (tmp_path / f"go{number}").touch()
    assert visible(server) == {"file": JOB * turns}


def test_a_program_below_many_others_reads(server: Server, mounted: MountedJob, tmp_path: Path) -> None:
    """vfs/semantics.md 4.43: its ancestors are looked up, whatever their number; each knows what it has read."""
    server.store.seed({"file": OLD}, age=60)
    nested = tmp_path / "nested"
    nested.write_text("if [ $1 = 0 ]; then cat file >$0.out; else sh $0 $(($1 - 1)); fi; exit\n")
    with _run(mounted, tmp_path, ["sh", "-c", f"sh {nested} 600; {_WAIT}; echo mine >file"]):
        _job_writes(mounted)
    assert (tmp_path / "nested.out").read_bytes() == OLD
    assert untimed(visible(server)) == {"file": b"mine\n", "file.conflict": JOB}


def test_a_program_that_forks_twice_between_its_read_and_its_save(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 4.48: it knows what was read last below process 1; here, what it has read itself."""
    server.store.seed({"file": OLD}, age=60)
    daemon = """
read()
for _ in range(2):
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    os.setsid()
while os.getppid() == parent:
    time.sleep(0.02)
wait()
save()
open(os.environ["d"] + "/saved", "w").close()
"""
    with _run(mounted, tmp_path, [sys.executable, "-c", _PYTHON + daemon, "file"]):
        _job_writes(mounted)
    eventually((tmp_path / "saved").exists, "the daemon to save")
    mounted.wait_until_settled()
    assert untimed(visible(server)) == {"file": b"mine", "file.conflict": JOB}


@pytest.mark.needs_fuse
def test_mv_has_not_read_what_the_job_wrote_before_it(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.46: it knows what the program beside it has read."""
    server.store.seed({"file": OLD}, age=60)
    assert run(mounted.path, "cat", "file") == OLD.decode()
    _job_writes(mounted)
    run(mounted.path, "bash", "-c", "mv file new; echo mine > new")
    mounted.wait_until_settled()
    assert untimed(visible(server)) == {"new": b"mine\n", "new.conflict": JOB}


class _Apart(MountedJob):
    """A mount in a process-id namespace of its own, whose `/proc` is that of all."""

    def command(self) -> list[str]:
        return ["unshare", "--pid", "--fork", "--kill-child", *super().command()]


@pytest.mark.needs_fuse
@pytest.mark.needs_root("only root has a process-id namespace")
def test_a_mount_that_sees_no_programs_replaces_what_it_shows(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 4.47: a mount in a process-id namespace of its own has no notes of programs outside of it."""
    server.store.seed({"file": OLD}, age=60)
    with gone_afterwards(_Apart(server, tmp_path / "home")) as mounted, _run(mounted, tmp_path, _edits()):
        _job_writes(mounted)
    assert visible(server) == {"file": b"mine"}
