"""What a machine needs to find jobfs: links for mount(8), a unit for systemd, completion in the shells."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from tests.support.machine import needing
from tests.support.terminal import terminal

from jobfs import cli
from jobfs.cli import install
from jobfs.errors import UsageError

from .world import JOB, MountTable, Run


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PERSTACK_API_KEY", "sk-secret")
    return install.find_program()


@pytest.mark.parametrize(("called", "words"), [
    (f"/sbin/mount.jobfs {JOB} /mnt", f"mount {JOB} /mnt"),
    (f"mount.jobfs {JOB} /mnt -sv -n -o rw,user", f"mount {JOB} /mnt -o rw,user"),
    (f"mount.fuse.jobfs {JOB} /mnt -o ro -t fuse.jobfs -N /proc/1/ns", f"mount {JOB} /mnt -o ro"),
    ("mount.fuse.jobfs --version", "--version"),
    ("umount.fuse.jobfs /mnt -n -v", "umount --or-plainly /mnt"),
    ("umount.fuse.jobfs /mnt -flr", "umount --or-plainly --lazy /mnt"),
    ("/usr/bin/jobfs status -f", "status -f"),
    (f"jobfs {JOB} /mnt -o rw,noauto", f"mount {JOB} /mnt -o rw,noauto"),
    ("jobfs BADJOB /mnt", "BADJOB /mnt"),
])  # fmt: skip
def test_mount_8_and_umount_8_have_options_of_their_own(called: str, words: str) -> None:
    """vfs/semantics.md 6.2, and mount(8) and umount(8), external helpers."""
    name, *arguments = called.split()
    assert cli.translate_arguments(name, arguments) == words.split()


def test_an_argument_that_mount_8_never_passes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--ttl.*-o NAME=VALUE"):
        cli.translate_arguments("mount.jobfs", [JOB, "/mnt", "--ttl", "3"])


def test_links_are_created_and_removed_but_no_foreign_file(
    program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    links = [tmp_path / name for name in cli.LINKS]
    for _ in range(2):
        install.change_links(tmp_path, remove=False)
        assert capsys.readouterr().out == "".join(f"linked {link} to {program}\n" for link in links)
        assert {link.readlink() for link in links} == {Path(program)}
    install.change_links(tmp_path, remove=True)
    assert not any(map(os.path.lexists, links))
    links[1].touch()
    for remove in (False, True):
        with pytest.raises(UsageError, match=f"^{links[1]} is not a link to jobfs: move it away first$"):
            install.change_links(tmp_path, remove=remove)
        assert not os.path.lexists(links[0])
    missing = tmp_path / "missing"  # root, too, can't write to it
    said = f"only root can write to {missing}: run sudo {shlex.quote(program)} install-helper --remove"
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        install.change_links(missing, remove=True)


def test_the_program_is_found_outside_path(tmp_path: Path) -> None:
    """As `python -m jobfs`, in an environment of its own."""
    venv.create(tmp_path, symlinks=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [f"{tmp_path}/bin/python", "-m", "jobfs", "systemd-unit", JOB, "/mnt"]
    none = subprocess.run(command, env=environment, capture_output=True, text=True)
    script = tmp_path / "bin" / "jobfs"
    script.touch(0o755)
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (none.returncode, none.stdout, "run pip install" in none.stderr) == (2, "", True)
    assert f"ExecStart={script} mount {JOB} /mnt " in found.stdout


def words(line: str) -> list[str]:
    """A command line, as systemd splits it."""
    return [
        word.replace("%%", "\0").replace("%", "").replace("\0", "%").replace("$$", "$")
        for word in shlex.split(line)
    ]


def test_a_unit_has_the_given_options_and_those_of_the_environment(
    run: Run, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSTACK_BASE_URL", "https://eu.example.com")
    monkeypatch.setenv("JOBFS_SYNC_ON_CLOSE", "no")
    monkeypatch.chdir(tmp_path)
    done = run(
        "systemd-unit", JOB, 'my job/100% "$x"', "-o", "ro,umask=27", "--state-dir", "kept", "--timeout", "7.5",
        "--local-only", "*.o", "--local-only", r"a\b",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    lines = [line for line in done.out.splitlines() if "=" in line and not line.startswith("#")]
    found = dict(line.split("=", 1) for line in lines)
    directory = f'{tmp_path}/my job/100% "$x"'
    start = words(found["ExecStart"])
    assert start[:5] == [program, "mount", JOB, directory, "--foreground"]
    assert set(start[5:]) == {
        "--base-url=https://eu.example.com", "--read-only", "--umask=027", f"--state-dir={tmp_path}/kept",
        "--timeout=7.5", r"--local-only=*.o:a\b",
    }  # fmt: skip
    assert words(found["ExecStop"].removeprefix("-")) == [
        program, "umount", directory, "--timeout", "300", "--state-dir", f"{tmp_path}/kept",
    ]  # fmt: skip
    assert float(found["TimeoutStopSec"]) > 300 + 2 * 7.5
    assert "secret" not in done.out


@pytest.mark.parametrize(("arguments", "said"), [
    (["short", "/mnt/a"], "not a job id"),
    ([JOB, "/mnt/a\nExecStart=/bin/false"], "can't contain"),
    ([JOB, "/mnt/a", "--base-url", "http://192.0.2.1"], "https"),
])  # fmt: skip
@pytest.mark.usefixtures("program")
def test_unusable_arguments_are_refused_at_once(run: Run, arguments: list[str], said: str) -> None:
    done = run("systemd-unit", *arguments)
    assert (done.code, done.out, said in done.err) == (2, "", True)


@pytest.mark.needs_program("systemd-analyze")
@pytest.mark.usefixtures("program")
def test_systemd_accepts_the_unit(run: Run, tmp_path: Path) -> None:
    unit = tmp_path / f"jobfs-{JOB}.service"
    unit.write_text(run("systemd-unit", JOB, f'{tmp_path}/my job/100% "$x"', "--local-only", r"a\b;'").out)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    command = ["systemd-analyze", "--user", "verify", str(unit)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


MOUNTS = {"/": "ext4", "/mnt/a": "fuse.jobfs", "/mnt/my job": "fuse.jobfs", "/mnt/b": "fuse.sshfs"}
PATHS, DIRECTORIES = ["file"], ["dir"]


def offered(*words: str) -> list[str]:
    """The last word is the one that was begun; `dir` and `file` stand for what the shell finds itself."""
    *before, begun = words
    found = ShellComplete(cli.jobfs, {}, "jobfs", "_JOBFS_COMPLETE").get_completions(before, begun)
    return [item.value if item.type == "plain" else item.type for item in found]


@pytest.mark.parametrize(("words", "expected"), [
    (["um"], ["umount"]), (["mount", JOB, ""], DIRECTORIES), ([JOB, ""], DIRECTORIES), (["doctor", ""], []),
    (["umount", ""], ["/mnt/a"]), (["wait", ""], ["/mnt/a"]),
    (["recover", JOB, "--save", ""], DIRECTORIES), (["umount", "jo"], PATHS), (["status", "/mnt/b"], PATHS),
    (["flush", "/mnt/a/no"], PATHS), (["discard", "no"], PATHS),
    (["set", "notes.md", "--permission", "readO"], ["readOnly"]),
    (["mount", "--log-level", "w"], ["warning"]), (["mount", "--cache-dir", ""], DIRECTORIES),
    (["mount", "--api-key-file", ""], PATHS), (["mount", "--sync"], ["--sync-on-close"]),
    (["completion", ""], list(install.SHELLS)), (["nonsense", "--v"], ["--version"]),
])  # fmt: skip
def test_completion_offers_the_matching_words(
    table: MountTable, words: list[str], expected: list[str]
) -> None:
    for point, kind in MOUNTS.items():
        table.add(point, kind=kind)
    assert offered(*words) == expected


def test_commands_are_offered_without_loading_them() -> None:
    script = """
import sys
from jobfs.__main__ import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
    environment = {
        **os.environ,
        "_JOBFS_COMPLETE": "bash_complete",
        "COMP_WORDS": "jobfs ",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [f"plain,{name}" for name in cli.COMMANDS if name != "emulator"]
    loaded = {*done.stderr.split()}
    assert ("jobfs.cli" in loaded, loaded & {module for module, _ in cli.COMMANDS.values()}) == (True, set())


@pytest.mark.needs_program("tmux")
@pytest.mark.parametrize("shell", ["bash", *map(needing, ["zsh", "fish"])])
def test_a_shell_completes_commands_and_names_and_executes_nothing(
    run: Run, tmp_path: Path, shell: str
) -> None:
    """As a person does it, on a terminal: the shell quotes what it completes; then the command is run."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "a;touch RAN;$(touch RAN)`touch RAN`'\\\"").touch()
    script = tmp_path / "completion"
    script.write_text(run("completion", shell).out)
    start = "autoload -Uz compinit; compinit; " * (shell == "zsh") + f"source {script}"
    no_prompt = ["-C", "function fish_prompt; end"]  # that of fish runs git
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config", *no_prompt]}[shell]
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    with terminal(tmp_path, work, "env", path, shell, *plain) as typing:
        typing.lines(start + "; echo rea''dy")
        typing.shows("ready")
        for begun, line in (("jobfs inf", "jobfs info"), ("a", re.compile("jobfs info a.*touch"))):
            typing.type(begun)
            typing.keys("Tab")
            typing.shows(line)
        typing.keys("Enter")
        typing.shows("no job is mounted at a;touch RAN;$(touch RAN)`touch RAN`'\\\"")
    assert not list(tmp_path.rglob("RAN"))
