"""Calling jobfs as mount(8) and umount(8) do, by links of their helpers' names (semantics.md section 6).

mount.fuse.jobfs JOB DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
umount.fuse.jobfs DIR [-flnrv] [-N NAMESPACE] [-t TYPE]
"""

from __future__ import annotations

import getopt
import os
from collections.abc import Sequence

from jobfs.errors import UsageError

#: The names by which they call what mounts the types fuse.jobfs and jobfs, and what unmounts the one that the kernel shows.
MOUNTING, UNMOUNTING = ("mount.fuse.jobfs", "mount.jobfs"), ("umount.fuse.jobfs",)


def words(called: str, arguments: Sequence[str]) -> list[str] | None:
    """The words of a command line of ours, if this program is `called` by such a link; else, and for `--help`, the arguments.

    None if nothing is to be done (`mount -f`). Raises UsageError.
    """
    name = os.path.basename(called)
    if name not in MOUNTING + UNMOUNTING or not arguments or arguments[0].startswith("-"):
        return list(arguments)
    try:
        return _of_mount(arguments) if name in MOUNTING else _of_umount(arguments)
    except getopt.GetoptError as error:
        raise UsageError(f"{error}: mount(8) gives settings as -o NAME=VALUE") from None


def _of_mount(arguments: Sequence[str]) -> list[str] | None:
    given, rest = getopt.gnu_getopt(list(arguments), "sfnvN:o:t:")
    if ("-f", "") in given:
        return None
    return ["mount", *rest, *(word for option in given if option[0] == "-o" for word in option)]


def _of_umount(arguments: Sequence[str]) -> list[str]:
    given, rest = getopt.gnu_getopt(list(arguments), "flnrvcN:t:")
    return ["umount", "--or-plainly", *(["--lazy"] if ("-l", "") in given else []), *rest]
