"""What holds for every test: a developer's own settings have no part in it, and a slow machine fails none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.support.forks import ForkServer

#: Tests of programs with a terminal and a pace of their own. Where a run repeats what failed (`.ci/run`), it repeats these only:
#: a race that shows once in twenty runs must fail one of them.
_REPEATED = {"test_bench", "test_editors", "test_recipes", "test_service", "test_terminal"}

for _name in list(os.environ):
    if _name.startswith(("JOBFS_", "PERSTACK_")) and not _name.startswith("JOBFS_TEST_"):
        del os.environ[_name]

# In a shell's background Ctrl-C is ignored, and by what the tests start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("jobfs", deadline=None, max_examples=40)
settings.load_profile("jobfs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem not in _REPEATED:
            item.add_marker(pytest.mark.flaky(reruns=0))


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Mounts start as forks of it: it has imported jobfs once."""
    forks = ForkServer(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()
