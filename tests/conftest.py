"""What holds for every test: a developer's own settings have no part in it, and a slow machine fails none."""

from __future__ import annotations

import os

from hypothesis import settings

for _name in list(os.environ):
    if _name.startswith(("JOBFS_", "PERSTACK_")) and not _name.startswith("JOBFS_TEST_"):
        del os.environ[_name]

settings.register_profile("jobfs", deadline=None)
settings.load_profile("jobfs")
