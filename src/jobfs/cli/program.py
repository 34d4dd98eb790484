"""Where the `jobfs` program is, for those who call it by its path: links, units, sentences with a command in them."""

from __future__ import annotations

import os
import sys
import sysconfig

from jobfs.errors import UsageError


def program() -> str:
    """The absolute path of the `jobfs` that is running, or of this installation. Raises UsageError if there is none.

    It goes on being right outside PATH; of a virtual environment it is the program in there.
    """
    called = os.path.abspath(sys.argv[0]) if os.sep in sys.argv[0] else ""
    for path in (called, os.path.join(sysconfig.get_path("scripts"), "jobfs")):
        if os.path.basename(path) == "jobfs" and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise UsageError(
        "there is no program jobfs beside this Python: pip install jobfs, or pip install . in a clone"
    )
