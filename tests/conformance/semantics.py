"""Which statements of vfs/semantics.md each row of the README's table makes.

A test names those that it proves: `vfs/semantics.md 4.7: …`.
"""

from __future__ import annotations

#: The rows of the README's table "What each operation means", by their first cell, and the statements that each makes.
README_ROWS = {
    "look up, list": "1.4 1.6 1.12",
    "two items at one path, impossible paths": "1.16 1.17 1.18 1.20 4.37",
    "mode, owner, group, times": "2.3 2.4 2.5 2.6 2.7 2.8 2.18",
    "size": "2.2",
    "readOnly items": "4.38 4.39",
    "inode number; an open file that the job replaces": "1.22 1.23 3.13 3.14",
    "rmdir, unlink of an open file": "4.29 4.33",
    "`.*.sw?` `4913` `*~` `.#*` `#*#` `.goutputstream-*` `.~lock.*#` `.DS_Store` `._*` `.nfs*`": "4.14 4.35",
    "`.jobfs/job.json`, `status.json`, `pending`": "6.7",
    "Ctrl-C, `kill`": "3.16",
    "a server that is silent, or asks to wait": "3.15 1.12",
    "lock, mmap, inotify": "2.14 2.15 3.14",
    "two machines with one job": "6.12",
}
