"""What holds for every test: a developer's own settings have no part in it, and a slow machine fails none."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

for _name in list(os.environ):
    if _name.startswith(("JOBFS_", "PERSTACK_")) and not _name.startswith("JOBFS_TEST_"):
        del os.environ[_name]

# In a shell's background Ctrl-C is ignored, and by what the tests start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("jobfs", deadline=None, max_examples=40)
settings.load_profile("jobfs")
