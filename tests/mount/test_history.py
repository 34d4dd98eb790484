"""The script `job-history` of using.md records what a mount shows, and nothing that the job has put there runs or misleads it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.support.files import save_file
from tests.support.mounts import Mount, MountedJob, environment, run
from tests.support.recipes import install_scripts
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.emulator.faults import Kind

pytestmark = pytest.mark.needs_program("git")

#: Bytes that would be others if git changed line ends, expanded keywords or took them for text.
BYTES = b"one\r\ntwo\n$Id$\r\n"
#: What the job can put into .gitattributes to hide or to alter what is recorded, or to have a driver of the user run.
ATTRIBUTES = (
    "* -diff\n* text eol=lf\n* ident filter=upper working-tree-encoding=UTF-16 diff=own\n[attr]text -diff\n"
)
ODD = [
    "-n", "--help", "new\nline", "tab\there", "it's \"quoted\"", "back\\slash", "$(touch RAN)", "; touch RAN", "*", " ",
    "dünn/雪", "e\u0301", "esc\x1b[2J", "~", "!!", "-d/-f", "HEAD", "{a,b}", ":(top)x", ".gitmodules",
]  # fmt: skip


class History:
    """A repository beside a mount, and the script that records in it."""

    def __init__(self, mounted: MountedJob) -> None:
        self.mounted, self.directory, self.home = mounted, mounted.path, mounted.home
        self.repository = mounted.home / "job.git"
        #: Made by each command that must not run.
        self.ran = mounted.home / "RAN"
        self.script = mounted.home / "programs/job-history"
        install_scripts(self.script.parent)

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        env = environment(self.home, None)
        return subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=90, cwd=self.home
        )

    def record(self) -> tuple[int, str]:
        """Run the script once: its exit code, and what it prints on either stream."""
        done = self._run(self.script, self.directory, self.repository)
        return done.returncode, os.fsdecode(done.stdout + done.stderr)

    def recorded(self) -> None:
        """Run the script once: it says nothing, and ends with 0."""
        assert self.record() == (0, "")

    def blob(self, name: str) -> bytes:
        """The bytes that are recorded under a name of git's; AssertionError if there is none."""
        done = self._run("git", "-C", self.repository, "cat-file", "blob", name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def git(self, *words: str) -> str:
        """What git prints of the repository, as a user calls it."""
        return run(self.home, "git", "-C", self.repository, *words, home=self.home)

    def commits(self) -> int:
        """How many commits there are."""
        return int(self.git("rev-list", "--count", "HEAD"))

    def files(self) -> dict[str, bytes]:
        """Path to bytes of the last commit; AssertionError for an entry that is no plain file."""
        found = {}
        for line in filter(None, self.git("ls-tree", "-rz", "HEAD").split("\0")):
            kind, _, path = line.partition("\t")
            mode, _, number = kind.split(" ")
            assert mode in ("100644", "100755"), line
            found[path] = self.blob(number)
        return found


@pytest.fixture
def history(mounted: MountedJob) -> Iterator[History]:
    history = History(mounted)
    yield history
    assert not history.ran.exists()


def hostile_repository(history: History, *, commits: int) -> dict[str, bytes | None]:
    """The tree of a repository whose configuration has git run a command wherever it can."""
    command, directory = f"touch {history.ran}; false", history.home / f"made{commits}"
    directory.mkdir()
    who = ("-c", "user.name=A", "-c", "user.email=a@example.invalid")
    git = partial(run, directory, "git", home=history.home)
    git("init", "-q")
    (directory / "file").write_text("inner\n")
    for _ in range(commits):
        git("add", "file")
        git(*who, "commit", "-qm", "one")
    for key in ("core.fsmonitor", "core.pager", "diff.external", "filter.upper.clean", "diff.own.textconv"):
        git("config", key, command)
    (directory / ".gitattributes").write_text(ATTRIBUTES)
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
    }


def test_hostile_repositories_in_the_workspace_run_nothing(server: Server, history: History) -> None:
    """Neither when they are recorded nor by the commands of the page; their files are recorded as any others."""
    inner, young = (hostile_repository(history, commits=number) for number in (1, 0))
    server.store.seed({f"evil/{path}": content for path, content in inner.items()} | {"notes.md": "a\n"})
    server.store.seed({f"young/{path}": content for path, content in young.items()})
    server.store.seed({".git/config": inner[".git/config"], ".git/HEAD": "ref: refs/heads/main\n"})
    run(history.directory / "evil", "git", "status", home=history.home)
    assert history.ran.exists(), "plain git runs it"
    history.ran.unlink()
    history.recorded()
    files = {f"{top}/{name}" for top in ("evil", "young") for name in ("file", ".gitattributes")}
    assert history.files().keys() == {*files, "notes.md"}
    save_file(history.directory / "notes.md", b"a\nb\n")
    save_file(history.directory / "evil/file", b"other\n")
    history.recorded()
    assert "2 files changed" in history.git("log", "-1", "--since=yesterday", "--stat")
    assert "+b\n" in history.git("diff", "HEAD~1", "HEAD", "--", "notes.md")
    assert "+other\n" in history.git("diff", "HEAD~1", "HEAD")
    assert history.git("show", "HEAD~1:notes.md") == "a\n"


def test_a_file_replaced_by_a_repository_is_recorded_as_its_files(server: Server, history: History) -> None:
    inner = hostile_repository(history, commits=1)
    server.store.seed({"turns": "a file"})
    history.recorded()
    server.store.delete("turns")
    server.store.seed({f"turns/{path}": content for path, content in inner.items()})
    eventually((history.directory / "turns/file").exists)
    history.recorded()
    assert history.files().keys() == {"turns/file", "turns/.gitattributes"}
    server.store.delete("turns")
    server.store.seed({"turns": "a file again"})
    eventually((history.directory / "turns").is_file)
    history.recorded()
    assert history.files() == {"turns": b"a file again"}


def test_gitattributes_of_the_job_do_not_affect_the_recorded_files(server: Server, history: History) -> None:
    harmful = dict.fromkeys(("filter.upper.clean", "diff.own.textconv"), f"touch {history.ran}; cat")
    for key, value in {**harmful, "core.autocrlf": "input"}.items():
        run(history.home, "git", "config", "--global", key, value, home=history.home)
    server.store.seed({".gitattributes": ATTRIBUTES, "sub/.gitattributes": ATTRIBUTES, "sub/crlf.txt": BYTES})
    history.recorded()
    assert history.files()["sub/crlf.txt"] == BYTES
    save_file(history.directory / "sub/crlf.txt", BYTES + b"three\n")
    history.recorded()
    # Some versions of git take the attributes of a bare repository from its last commit.
    for where in (), ("-c", "attr.tree=HEAD"):
        assert "\n+three\n" in history.git(*where, "diff", "HEAD~1", "HEAD", "--", "sub/crlf.txt")
    assert "1 insertion(+)" in history.git("log", "-1", "--stat")


def test_odd_names_are_recorded_and_run_nothing(server: Server, history: History) -> None:
    tree = {name: f"of {name}".encode() for name in ODD}
    server.store.seed(tree)
    history.recorded()
    assert history.files() == tree
    for name in ODD[:-4]:
        server.store.delete(name)
    eventually(lambda: not (history.directory / ODD[0]).exists())
    history.recorded()
    assert history.files().keys() == set(ODD[-4:])
    assert not list(history.home.rglob("RAN"))


def test_an_unreadable_file_is_left_out_and_reported(server: Server, history: History) -> None:
    """What was recorded of it stays. By default git maps a file of over 32 KiB, and dies of SIGBUS where its download fails."""
    contents = {"small": b"s", "large": b"l" * 100_000, "it's": b"q", "breaks": bytes(3_000_000)}
    server.store.seed({**contents, "known": b"before", "other": b"o"})
    server.faults.fail_next("cut", on="download", path="breaks", at=0.3)
    server.faults.set_rate("error", 1.0, on="download", status=403, path="[slib]*")
    code, said = history.record()
    assert (code, "Bus error" in said) == (0, False)
    for quoted in ("'small'", "'large'", r"'it'\''s'", "'breaks'"):
        assert f"left out: {quoted}\n" in said
    assert history.files() == {"known": b"before", "other": b"o"}
    server.faults.set_rate("error", 1.0, on="download", status=403, path="known")
    server.store.write("known", b"and after")
    server.store.write("other", b"new")
    eventually(lambda: (history.directory / "known").stat().st_size == 9)
    assert "left out: 'known'\n" in history.record()[1]
    assert history.files() == {"known": b"before", "other": b"new"}
    server.faults.clear()
    history.recorded()
    assert history.files() == {**contents, "known": b"and after", "other": b"new"}


def test_a_file_over_20_mib_is_left_out(server: Server, history: History) -> None:
    limit = 20 << 20
    server.store.seed({"huge": bytes(30_000_000), "grows": b"small", "just": bytes(limit), "beside": b"b"})
    history.recorded()
    assert history.git("ls-tree", "-r", "--name-only", "HEAD").split() == ["beside", "grows", "just"]
    server.store.write("grows", bytes(limit + 1))
    eventually(lambda: (history.directory / "grows").stat().st_size > limit)
    history.recorded()
    assert history.blob("HEAD:grows") == b"small", "what was recorded of it stays"
    huge = server.store.item_at("huge").id
    assert not [entry for entry in server.log.entries("download") if huge in entry.path]


def test_nothing_is_recorded_without_a_mounted_job(server: Server, history: History) -> None:
    """Neither of a directory in the mount, nor of a dead mount, nor of an unmounted DIR, empty or not."""
    server.store.seed({"notes.md": b"a", "dir/b": b"b"})
    history.recorded()
    history.directory /= "dir"
    assert history.record()[0] == 1
    history.directory = history.directory.parent
    history.mounted.kill_only()
    assert history.record()[0] == 1
    history.mounted.kill()
    for _ in "empty", "not empty":
        assert history.record() == (1, f"no job is mounted at {history.directory}\n")
        (history.directory / "stray").touch()
    assert history.commits() == 2
    assert history.files() == {"notes.md": b"a", "dir/b": b"b"}


@pytest.mark.parametrize("kind", ["hang", "error"])
def test_a_failed_listing_records_no_deletions(server: Server, mount: Mount, kind: Kind) -> None:
    mounted = mount(timeout=1, stale_if_error=0)
    history = History(mounted)
    server.store.seed({f"d{number}/{name}": name.encode() for number in range(3) for name in "abc"})
    history.recorded()
    before = history.files()
    assert len(before) == 9
    server.faults.set_rate(kind, 1.0)
    eventually(lambda: history.record()[0] == 1)
    assert history.record()[1].endswith(f"not everything in {mounted.path} can be listed\n")
    assert (history.commits(), history.files()) == (2, before)
    server.faults.clear()


def test_without_changes_there_is_no_commit_and_no_download(server: Server, history: History) -> None:
    server.store.seed({name: name.encode() for name in "abc"}, age=60)
    history.recorded()
    before = server.log.count("download")
    history.recorded()
    assert (history.commits(), server.log.count("download")) == (2, before)


def test_a_repository_in_the_workspace_or_a_missing_place_is_refused(history: History) -> None:
    before = sorted(history.home.iterdir())
    history.repository = history.directory / "job.git"
    said = f"{history.repository} is in {history.directory}, where the job can write\n"
    assert history.record() == (2, said)
    assert list(history.directory.iterdir()) == []
    history.repository = history.home / "missing/job.git"
    code, said = history.record()
    assert (code, "missing" in said) == (2, True)
    assert sorted(history.home.iterdir()) == before


def test_plain_git_works_with_a_repository_outside_and_a_local_link(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 4.15: the way of the page for a user who trusts the job, who sees nothing of the repository."""
    mounted = mount(local_only=".git")
    server.store.seed({"notes.md": "a\n"})
    git = "git -c user.name=A -c user.email=a@example.invalid"
    work = f"git init -q --separate-git-dir ~/job.git . && {git} add -A && {git} commit -qm one && echo b >> notes.md"
    run(mounted.path, "sh", "-ec", work, home=mounted.home)
    assert run(mounted.path, "git", "status", "--short", home=mounted.home) == " M notes.md\n"
    mounted.wait_until_settled()
    assert server.store.tree() == {"notes.md": b"a\nb\n"}


def test_with_an_interval_it_records_until_it_is_stopped(server: Server, history: History) -> None:
    def recorded(name: str) -> bool:
        return name in history.files()

    history.recorded()
    with subprocess.Popen(
        [history.script, history.directory, history.repository, "0.1"],
        env=environment(history.home, None), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as recording:  # fmt: skip
        try:
            for name in "one", "two":
                server.store.seed({name: name})
                eventually(partial(recorded, name))
        finally:
            os.killpg(recording.pid, signal.SIGTERM)
