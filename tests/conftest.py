"""What holds for every test: a developer's own settings have no part in it, and a slow machine fails none."""

from __future__ import annotations

import os

from hypothesis import settings

for _name in [name for name in os.environ if name.startswith(("JOBFS_", "PERSTACK_"))]:
    del os.environ[_name]

settings.register_profile("jobfs", deadline=None)
settings.load_profile("jobfs")
