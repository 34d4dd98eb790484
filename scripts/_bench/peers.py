"""The peers: rclone, davfs2 and fsspec's FUSE on WebDAV, sshfs on SSH; all serve the same files of this disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .lab import Lab, NotMeasured, Relay, await_that, detach, is_mounted
from .system import Mounted, System
from .tree import Tree, write

#: The defaults of jobfs, for peers that have the same setting.
_CONNECTIONS, _WRITE_BACK = 16, "500ms"

_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Peer(System):
    """A peer whose server serves the directory `served` of this disk."""

    def __init__(self, lab: Lab, served: Path, relay: Relay) -> None:
        super().__init__(lab)
        self.relay = relay
        self._served = served

    @staticmethod
    @abstractmethod
    def missing() -> str:
        """Return why the peer can't take part, "" if it can."""

    @abstractmethod
    def command(self, dataset: str, directory: Path) -> Sequence[object]:
        """Return the command that mounts a data set, with an empty cache."""

    @contextmanager
    def mount(self, dataset: str, **options: Any) -> Iterator[Mounted]:
        """Start the peer in the foreground, wait until it is mounted, and end it afterwards."""
        with self.lab.mount_point() as directory:
            try:
                with self.lab.process(
                    self.command(dataset, directory), self.lab.environment(PATH=_SBIN)
                ) as it:
                    await_that(lambda: is_mounted(directory) or it.poll() is not None, f"{self.name} mounts")
                    if it.poll() is not None:
                        raise NotMeasured(f"{self.name} has ended: {self.lab.complaints()}")
                    yield Mounted(directory, self._drivers(it.pid, directory))
                    detach(directory)
            finally:
                detach(directory)

    def _drivers(self, pid: int, directory: Path) -> list[int]:
        return [pid]

    def writable(self, dataset: str) -> str:
        """Copy the files into a new directory; return its name."""
        name = f"work-{self.name}-{time.monotonic_ns()}"
        shutil.copytree(self._served / dataset, self._served / name)
        return name

    def arrival(self, dataset: str, tree: Tree, since: float) -> float:
        """Poll the server's disk until every file is complete; return the time in seconds since the epoch."""
        missing = dict(tree)

        def arrived() -> bool:
            for path, content in list(missing.items()):
                place = self._served / dataset / path
                with suppress(OSError):
                    if place.stat().st_size == len(content) and place.read_bytes() == content:
                        del missing[path]
                        continue
                return False
            return True

        await_that(arrived, "the server has everything", 180.0, 0.02)
        return time.time()


class Rclone(Peer):
    """`rclone mount` of a WebDAV server, with its full cache."""

    name = "rclone"

    @staticmethod
    def missing() -> str:
        """Check for the one program."""
        return _without("rclone")

    def command(self, dataset: str, directory: Path) -> Sequence[object]:
        """Use the write-back delay and the connections of jobfs."""
        assert self.relay is not None
        return [
            "rclone", "mount", ":webdav:", directory, "--config", "/dev/null",
            "--webdav-url", f"http://127.0.0.1:{self.relay.port}/{dataset}", "--webdav-vendor", "other",
            "--vfs-cache-mode", "full", "--cache-dir", self.lab.fresh("rclone"),
            "--vfs-write-back", _WRITE_BACK, "--transfers", _CONNECTIONS, "--checkers", _CONNECTIONS,
        ]  # fmt: skip


class Davfs2(Peer):
    """`mount.davfs`, which forks into the background by itself."""

    name = "davfs2"

    @staticmethod
    def missing() -> str:
        """Check for the program, and for root: only root may mount without a line in fstab."""
        return _without("mount.davfs") or ("" if os.geteuid() == 0 else "it needs root")

    def command(self, dataset: str, directory: Path) -> Sequence[object]:
        """Raise NotImplementedError: `mount` runs the command itself."""
        raise NotImplementedError

    @contextmanager
    def mount(self, dataset: str, **options: Any) -> Iterator[Mounted]:
        """Mount and unmount as root does, with the shortest delay before uploads and the buffer size that listings need."""
        assert self.relay is not None
        cache = self.lab.fresh("davfs2")
        settings = cache / "davfs2.conf"
        settings.write_text(
            f"ask_auth 0\nuse_locks 1\nbuf_size 128\ndelay_upload 1\n"
            f"cache_dir {cache}\nsecrets {cache}/secrets\n"
        )
        (cache / "secrets").touch(0o600)
        with suppress(LookupError):  # the group that davfs2 runs as, if it was built that way
            shutil.chown(cache, group="davfs2")
            cache.chmod(0o775)
        url = f"http://127.0.0.1:{self.relay.port}/{dataset}"
        with self.lab.mount_point() as directory:
            words = ["mount.davfs", url, str(directory), "-o", f"conf={settings}"]
            done = subprocess.run(
                words, env=self.lab.environment(PATH=_SBIN), stdin=subprocess.DEVNULL, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            if done.returncode or not is_mounted(directory):
                raise NotMeasured(f"davfs2: {done.stderr}")
            pids = _processes_with(str(directory))
            try:
                yield Mounted(directory, pids)
            finally:
                detach(directory)
                for pid in pids:
                    _end_process(pid)


class Sshfs(Peer):
    """`sshfs`, through ssh."""

    name = "sshfs"

    @staticmethod
    def missing() -> str:
        """Check for the programs of both ends."""
        return _without("sshfs") or _without("sshd") or _without("ssh-keygen")

    def command(self, dataset: str, directory: Path) -> Sequence[object]:
        """Use the key that this run's own server accepts."""
        assert self.relay is not None
        options = [
            f"IdentityFile={self._served}-ssh/key", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes", "LogLevel=ERROR",
        ]  # fmt: skip
        flags = [word for option in options for word in ("-o", option)]
        where = f"{_user()}@127.0.0.1:{self._served / dataset}"
        return ["sshfs", "-f", where, directory, "-p", self.relay.port, "-F", "/dev/null", *flags]

    def _count(self, through_relay: int) -> float | None:
        return None  # the traffic through the relay is encrypted


class Fsspec(Peer):
    """fsspec's FUSE on its WebDAV file system."""

    name = "fsspec"

    @staticmethod
    def missing() -> str:
        """Check for the virtual environment that fsspec has of its own."""
        return "" if _fsspec_python().exists() else f"no virtual environment with it at {_fsspec_python()}"

    def command(self, dataset: str, directory: Path) -> Sequence[object]:
        """Follow its documentation; with threads, its reads would mix up their offsets."""
        assert self.relay is not None
        code = (
            "import sys, fsspec.fuse; from webdav4.fsspec import WebdavFileSystem; "
            "fsspec.fuse.run(WebdavFileSystem(sys.argv[1]), '', sys.argv[2])"
        )
        return [_fsspec_python(), "-c", code, f"http://127.0.0.1:{self.relay.port}/{dataset}", directory]


_KINDS: Mapping[str, type[Peer]] = {kind.name: kind for kind in (Rclone, Davfs2, Sshfs, Fsspec)}
PEERS = tuple(_KINDS)


def start_peers(
    names: Sequence[str], lab: Lab, datasets: Mapping[str, Tree], say: Callable[[str], None]
) -> list[System]:
    """Start the servers of the named peers that can take part, and return those peers; report the others with `say`."""
    able = []
    for name in names:
        if reason := _KINDS[name].missing():
            say(f"without {name}: {reason}")
        else:
            able.append(name)
    if not able:
        return []
    served = lab.fresh("served")
    for name, content in datasets.items():
        write(served / name, content)
    systems: list[System] = []
    webdav = None
    for name in able:
        try:
            if name == "sshfs":
                port = _start_sshd(lab, served)
            else:
                port = webdav = webdav or _start_webdav(lab, served)
            systems.append(_KINDS[name](lab, served, Relay(lab, port)))
        except NotMeasured as error:
            say(f"without {name}: {error}")
    return systems


def _start_webdav(lab: Lab, served: Path) -> int:
    if reason := _without("rclone"):
        raise NotMeasured(f"{reason}, which serves WebDAV to it")
    port = _free_port()
    # With its default it would not see files put on the disk directly, until its directory cache has expired.
    words = ["--addr", f"127.0.0.1:{port}", "--config", "/dev/null", "--dir-cache-time", "1ms"]
    lab.keep(lab.process(["rclone", "serve", "webdav", served, *words]))
    await_that(lambda: _answers(port), "rclone serve webdav")
    return port


def _start_sshd(lab: Lab, served: Path) -> int:
    """Start an SSH server on its own port, with its own key, for this user only; return the port."""
    place = Path(f"{served}-ssh")
    place.mkdir(mode=0o700)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    (place / "key.pub").rename(place / "authorized")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = _free_port()
    (place / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {place}/host\nAuthorizedKeysFile {place}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        f"AllowUsers {_user()}\nPasswordAuthentication no\n"
    )
    sshd = shutil.which("sshd", path=_SBIN)
    lab.keep(lab.process([sshd, "-D", "-e", "-f", place / "config"]))
    await_that(lambda: _answers(port), "sshd")
    return port


def _fsspec_python() -> Path:
    return Path(os.environ.get("PEERS_VENV", f"{sys.prefix}/../.cache/peers")) / "bin/python"


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _without(program: str) -> str:
    return "" if shutil.which(program, path=_SBIN) else f"{program} is not installed"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _processes_with(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def _end_process(pid: int) -> None:
    """Wait until the process has ended by itself, which lets it send what is left; else end it."""
    with suppress(NotMeasured):
        await_that(lambda: not Path(f"/proc/{pid}").exists(), "it ends", 5.0)
        return
    with suppress(OSError):
        os.kill(pid, 15)
