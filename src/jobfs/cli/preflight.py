"""Checks before mounting, and the API key. Each failure is one sentence with its remedy (vfs/semantics.md 6)."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobfs.api.access import FileKey, KeySource, check_job_id, fixed_key, normalize_base_url
from jobfs.api.deadline import limit_time
from jobfs.cli.running import describe_dead
from jobfs.cli.screen import format_size, print_escaped
from jobfs.errors import ContractError, JobfsError, NotFoundError, UnauthorizedError, UsageError
from jobfs.mountpoint import check_is_empty, find_mount_at, is_dead, run_bounded, unmount
from jobfs.names import quote_for_shell
from jobfs.private import open_own_directory
from jobfs.settings import Settings, shell_command

if TYPE_CHECKING:
    from jobfs.api.client import Client

_DEVICE = Path("/dev/fuse")
#: Remedies where the device can't be opened: by errno, and for a container.
_REMEDIES = {
    errno.EACCES: f"this user has no permission: on a desktop, run sudo chmod 666 {_DEVICE}, or mount as another user",
    errno.EPERM: "a sandbox or a container forbids it",
}
_CONTAINER = f"in a container, start it with --device {_DEVICE} --cap-add SYS_ADMIN"
_LIBRARY = "libfuse.so.2"
_CAP_SYS_ADMIN = 21
_PR_SET_DUMPABLE = 4
#: Seconds for one small reply of the server, even if --timeout is longer; and seconds for all requests of the check together.
_PROBE, _PROBE_LIMIT = 4.0, 7.0


def check_machine(settings: Settings, job: str, directory: str, say: Callable[[str], object]) -> str:
    """Return the real path of the mount point if this machine can mount `job` there; else raise UsageError.

    Unmounts a dead mount there, which `say` reports to the user.
    """
    check_job_id(job)
    normalize_base_url(settings.base_url)
    place = prepare_mount_point(directory, say)
    for path, what, option in _directories_to_write(settings):
        if f"{os.path.realpath(path)}/".startswith(f"{place}/"):
            raise UsageError(
                f"the {what} directory {path} is inside the mount point: give another with {option}"
            )
    for check in list_checks(settings).values():
        check()
    return place


def list_checks(settings: Settings) -> dict[str, Callable[[], str]]:
    """Return the checks of this machine by their subjects. Each check returns a text on what is well, or raises UsageError."""
    return {"/dev/fuse": check_device, "libfuse 2": pin_libfuse_for_fusepy, "fusermount": check_may_mount} | {
        f"{what} directory": partial(ensure_writable_directory, path, what, option)
        for path, what, option in _directories_to_write(settings)
    }


def _directories_to_write(settings: Settings) -> tuple[tuple[Path, str, str], ...]:
    """Return the directories that a mount writes in, each with its purpose and the option that moves it."""
    return (settings.cache_dir, "cache", "--cache-dir"), (settings.state_dir, "state", "--state-dir")


def prepare_mount_point(directory: str, say: Callable[[str], object]) -> str:
    """Return the real path of an empty directory where no job is mounted; else raise UsageError. Unmounts a dead mount there."""
    path = os.path.realpath(directory)
    there = find_mount_at(path)
    if there is not None and is_dead(path):
        unmount(path, lazy=True)
        say(f"{describe_dead(path)}: its dead mount was removed")
    elif there is not None and there.kind == "fuse.jobfs":
        raise UsageError(
            f"a job is already mounted at {path}: run {shell_command('umount', path)}, or give another directory"
        )
    check_is_empty(path)
    return path


def check_server_and_count_items(
    settings: Settings, job: str, key: KeySource, concurrently: Callable[[], object] = lambda: None
) -> int:
    """Return the approximate number of items of the job. Raises UsageError within a few seconds if there is no usable answer.

    Calls `concurrently` while the request is in flight.
    """
    # Imported only now, so that help is fast; and not in the thread that asks, because `concurrently` may import more modules.
    from jobfs.api.client import Client

    try:
        return run_bounded(lambda: fetch_item_count(Client, settings, job, key), _PROBE_LIMIT, concurrently)
    except UnauthorizedError:
        raise UsageError(
            f"{settings.base_url} refuses the API key: check PERSTACK_API_KEY or --api-key-file"
        ) from None
    except NotFoundError:
        raise UsageError(
            f"{settings.base_url} knows no job {job}, or it has no workspace yet: check the job id"
        ) from None
    except UsageError:
        raise
    except (TimeoutError, JobfsError) as error:
        why = str(error) or "it does not answer"
        raise UsageError(f"can't use {settings.base_url}: {why}; check the URL and the network") from None


def fetch_item_count(connect: type[Client], settings: Settings, job: str, key: KeySource) -> int:
    """Return how many items the job has; raises ApiError."""
    timeout = min(settings.timeout, _PROBE)
    with limit_time(), connect(settings.base_url, job, key, timeout=timeout, max_connections=1) as client:
        try:
            return client.get_instance().count_items or 0
        except ContractError:
            # The reply may be too large if it includes all items; a page of the listing says how many there are.
            return client.list_page(1, 0).total


def ensure_writable_directory(path: Path, purpose: str, option: str) -> str:
    """Make the directory if it is missing, and a file in it: nothing less proves that it is writable.

    First check that the directory is only this user's: another writer could choose what is read from it. Raises UsageError.
    """
    try:
        with open_own_directory(path, purpose, option), tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(
            f"can't write to the {purpose} directory {path}: {error.strerror}; give another with {option}"
        ) from None
    return f"{path}, {format_size(shutil.disk_usage(path).free)} free"


def check_device() -> str:
    """Check that this process can open /dev/fuse. Raises UsageError."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "on a desktop, run sudo modprobe fuse")
        raise UsageError(f"can't open {_DEVICE}: {error.strerror}: {remedy}; {_CONTAINER}") from None
    return "can be opened"


def pin_libfuse_for_fusepy() -> str:
    """Load libfuse, and set FUSE_LIBRARY_PATH for fusepy, which would start other programs to find it. Raises UsageError."""
    library = os.environ.get("FUSE_LIBRARY_PATH", _LIBRARY)
    try:
        ctypes.CDLL(library)
    except OSError:
        raise UsageError(
            "libfuse 2 is missing: install the package libfuse2t64 or libfuse2 (Debian, Ubuntu), fuse-libs (Fedora, RHEL), "
            "libfuse2 (SUSE) or fuse2 (Arch)"
        ) from None
    os.environ["FUSE_LIBRARY_PATH"] = library
    return library


def check_may_mount(process: Path = Path("/proc/self")) -> str:
    """Check that a process, by default this one, may mount: as root by itself, otherwise with fusermount. Raises UsageError."""
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    _, effective_uid, *_ = status["Uid"].split()
    root = effective_uid == "0"
    if not root and shutil.which("fusermount") is None:
        raise UsageError("fusermount is missing: install fuse3 (or fuse)")
    if not int(status["CapBnd"], 16) >> _CAP_SYS_ADMIN & 1:
        raise UsageError(f"this process may not mount anything: {_CONTAINER}")
    if not root and status["NoNewPrivs"] == "1":
        raise UsageError("fusermount can't become root here (no_new_privs): start jobfs outside this sandbox")
    return "not needed by root" if root else "found"


# The API key


def find_key(settings: Settings) -> KeySource:
    """Return the key in `api_key_file`, or else in PERSTACK_API_KEY. Reads it at once, so that a bad key raises UsageError now.

    From then on this process leaves no core dump, unless `allow_core_dumps`.
    """
    if not settings.allow_core_dumps:
        _disable_core_dumps()
    if settings.api_key_file is None:
        key = os.environ.get("PERSTACK_API_KEY", "")
        if not key.strip():
            raise UsageError("there is no API key: set PERSTACK_API_KEY, or give --api-key-file FILE")
        return fixed_key(key)
    path = settings.api_key_file
    if not os.path.isfile(path):  # unlike Path.is_file, it never raises an error with the value in it
        # The sentence does not name the file: the user may have given the key in its place.
        raise UsageError(
            "the value of --api-key-file is not a file: give the path of a file that has the key"
        )
    info = path.stat()
    # As ssh requires of a private key. Only for the user's own file: others are the administrator's business.
    if info.st_uid == os.geteuid() and info.st_mode & 0o077:
        print_escaped(
            f"jobfs: others can read the API key in {path}: run chmod 600 {quote_for_shell(path)}", err=True
        )
    source = FileKey(path)
    source()
    return source


def _disable_core_dumps() -> None:
    """Let the kernel write no core dump of this process, pass none to a program, and refuse debuggers of the same user.

    /proc/PID of this process then belongs to root, so other programs of the user can't read its environment there.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
