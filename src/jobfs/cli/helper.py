"""`jobfs install-helper`: let mount(8) and /etc/fstab find jobfs, wherever it is installed.

mount(8) hands `-t fuse.jobfs` to /sbin/mount.fuse.jobfs, and `-t jobfs` to /sbin/mount.jobfs (see called.py). Without them,
`-t fuse.jobfs` goes to mount.fuse, which finds only a `jobfs` that is in PATH. umount(8) hands what is mounted to
/sbin/umount.fuse.jobfs, so that it too returns when everything is sent: at a shutdown the network goes after that.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import click

from jobfs.cli.called import MOUNTING, UNMOUNTING
from jobfs.cli.program import program
from jobfs.cli.screen import tell
from jobfs.errors import JobfsError, UsageError
from jobfs.private import user_name

#: Where mount(8) looks.
_PLACE = Path("/sbin")
_LINKS = (*MOUNTING, *UNMOUNTING)


@click.command("install-helper", short_help="Let mount(8) and /etc/fstab find jobfs.")
@click.option("--remove", is_flag=True, help="Take the links away again.")
def install_helper(remove: bool) -> int:
    """Make `mount -t fuse.jobfs JOB DIR` and lines in /etc/fstab work, wherever jobfs is installed.

    Puts links to this program where mount(8) and umount(8) look: /sbin/mount.fuse.jobfs, /sbin/mount.jobfs and
    /sbin/umount.fuse.jobfs. `umount DIR` is `jobfs umount DIR` then. Needs root.
    """
    target = program()
    if not os.access(_PLACE, os.W_OK):
        word = " --remove" if remove else ""
        raise UsageError(f"only root can write in {_PLACE}: sudo {target} install-helper{word}")
    with _refusing():
        if remove:
            _remove()
        else:
            _install(target)
    return 0


def _install(target: str) -> None:
    links = [_PLACE / name for name in _LINKS]
    for link in links:
        _check_ours(link)
    for link in links:
        draft = link.with_name(f"{link.name}.{os.getpid()}")
        draft.symlink_to(target)
        draft.replace(link)
        tell(f"{link} is {target}")
    owner = _stranger(target)
    if owner is not None:
        tell(f"jobfs: whoever mounts runs {target}, which {owner} can change", err=True)


def _remove() -> None:
    links = [_PLACE / name for name in _LINKS if os.path.lexists(_PLACE / name)]
    for link in links:
        _check_ours(link)
    for link in links:
        link.unlink()
        tell(f"{link} is removed")
    if not links:
        tell(f"there is nothing of jobfs in {_PLACE}")


def _check_ours(link: Path) -> None:
    """Raises UsageError if something else than a link to a jobfs is there."""
    if os.path.lexists(link) and not (link.is_symlink() and os.path.basename(os.readlink(link)) == "jobfs"):
        raise UsageError(f"{link} is not a link to jobfs: move it away first")


def _stranger(target: str) -> str | None:
    """The name of a user, neither root nor this one, who can put another program at `target`; None if there is none."""
    path = Path(target)
    for place in (path, *path.parents, *path.resolve().parents):
        owner = place.lstat().st_uid
        if owner not in (0, os.geteuid()):
            return user_name(owner)
        if place.stat().st_mode & stat.S_IWOTH and not place.stat().st_mode & stat.S_ISVTX:
            return "everybody"
    return None


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JobfsError(f"can't write in {_PLACE}: {error.strerror}") from None
