"""`jobfs install-helper`: let mount(8) and /etc/fstab find jobfs, wherever it is installed; and how they call it then.

mount(8) hands `-t fuse.jobfs` to /sbin/mount.fuse.jobfs, and `-t jobfs` to /sbin/mount.jobfs. Without them, `-t fuse.jobfs` goes
to mount.fuse, which finds only a `jobfs` that is in PATH. umount(8) hands a mount of jobfs to /sbin/umount.fuse.jobfs, so that
umount(8) too returns when everything is sent: at a shutdown the network goes down after that (vfs/semantics.md 6).

    mount.fuse.jobfs JOB DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
    umount.fuse.jobfs DIR [-flnrv] [-N NAMESPACE] [-t TYPE]
"""

from __future__ import annotations

import getopt
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import click

from jobfs.cli.screen import tell
from jobfs.errors import JobfsError, UsageError

#: Where mount(8) looks, and for which links.
_PLACE = Path("/sbin")
_MOUNTING = ("mount.fuse.jobfs", "mount.jobfs")
_LINKS = (*_MOUNTING, "umount.fuse.jobfs")


def words(called: str, arguments: Sequence[str]) -> list[str] | None:
    """The words of a command line of ours, if this program is `called` by such a link; else, and for `--help`, the arguments.

    None if nothing is to be done (`mount -f`). Raises UsageError.
    """
    name = os.path.basename(called)
    if name not in _LINKS or not arguments or arguments[0].startswith("-"):
        return list(arguments)
    mounting = name in _MOUNTING
    try:
        options, rest = getopt.gnu_getopt(list(arguments), "sfnvN:o:t:" if mounting else "flnrvcN:t:")
    except getopt.GetoptError as error:
        raise UsageError(f"{error}: mount(8) gives settings as -o NAME=VALUE") from None
    given = [flag for flag, _ in options]
    if mounting:
        settings = [word for flag, value in options if flag == "-o" for word in (flag, value)]
        return None if "-f" in given else ["mount", *rest, *settings]
    return ["umount", "--or-plainly", *["--lazy"] * ("-l" in given), *rest]


def program() -> str:
    """The absolute path of the `jobfs` that is running, or of this installation. Raises UsageError if there is none.

    The path works outside PATH too; in a virtual environment it is that environment's program.
    """
    called = os.path.abspath(sys.argv[0]) if os.sep in sys.argv[0] else ""
    for path in (called, os.path.join(sysconfig.get_path("scripts"), "jobfs")):
        if os.path.basename(path) == "jobfs" and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise UsageError(
        "there is no program jobfs beside this Python: pip install jobfs, or pip install . in a clone"
    )


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
    try:
        links = _ours()
        if remove and not links:
            tell(f"there is nothing of jobfs in {_PLACE}")
        for link in links:
            link.unlink()
            if remove:
                tell(f"{link} is removed")
        for name in () if remove else _LINKS:
            (_PLACE / name).symlink_to(target)
            tell(f"{_PLACE / name} is {target}")
    except OSError as error:
        raise JobfsError(f"can't write in {_PLACE}: {error.strerror}") from None
    return 0


def _ours() -> list[Path]:
    """The links that are there; raises UsageError if one of them is something else than a link to jobfs."""
    there = [_PLACE / name for name in _LINKS if os.path.lexists(_PLACE / name)]
    for link in there:
        if not (link.is_symlink() and os.path.basename(os.readlink(link)) == "jobfs"):
            raise UsageError(f"{link} is not a link to jobfs: move it away first")
    return there
