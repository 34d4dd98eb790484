"""Other users of the same machine: what they prepare is not believed, what is not theirs is not shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob, is_mounted

from jobfs.emulator import Server

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

OTHER = 65534
AS_OTHER = ("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups")


def as_other(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a program as another user, who has no rights here; its output is captured."""
    return subprocess.run(
        [*AS_OTHER, *map(str, command)], cwd="/", capture_output=True, text=True, timeout=30, check=check
    )


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory in which every user may make things, as /tmp is."""
    path = Path(tempfile.mkdtemp(prefix="jobfs-shared-"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("how", ["directory", "link"])
def test_a_cache_directory_that_another_user_made_first_is_refused(
    server: Server, mount: Callable[..., MountedJob], shared: Path, how: str
) -> None:
    cache = shared / "cache"
    if how == "link":
        (shared / "elsewhere").mkdir(mode=0o700)
        as_other("ln", "-s", shared / "elsewhere", cache)
    else:
        as_other("mkdir", "-m", "777", cache)
    job = mount(start=False)
    job.cache = cache
    done = job.jobfs(*job.command()[3:])
    assert done.returncode == 2, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert f"the cache directory {cache} belongs to nobody" in sentence
    assert "--cache-dir" in sentence
    assert not is_mounted(job.path)
    assert os.listdir(shared / "elsewhere" if how == "link" else cache) == []


def test_a_cached_file_of_another_user_is_downloaded_again(
    server: Server, mount: Callable[..., MountedJob], shared: Path
) -> None:
    server.store.write("file", b"as the server has it")
    job = mount(start=False)
    job.mount()
    assert (job.path / "file").read_bytes() == b"as the server has it"
    job.umount()
    (cached,) = (path for path in job.cache.rglob("*") if path.is_file() and path.stat().st_size == 20)
    cached.unlink()
    as_other("sh", "-c", f"printf %s 'as another wants it.' > {shared}/planted")
    os.rename(shared / "planted", cached)
    job.mount()
    assert (job.path / "file").read_bytes() == b"as the server has it"
    assert cached.stat().st_uid == os.geteuid()
