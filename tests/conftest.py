"""What holds for every test: a developer's own settings have no part in it, and a slow machine fails none."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.support.environment import replace_environment
from tests.support.forks import ForkServer
from tests.support.machine import (
    MISSING,
    NEEDS_ROOT,
    NO_MOUNT,
    StandIns,
    list_test_programs,
    must_have_all,
    named_programs,
    why_no_mount,
    why_programs_are_missing,
    why_skipped,
)

#: Tests of programs with a terminal and a pace of their own. Where a run repeats what failed (`.ci/run`), it repeats these only:
#: a race that shows once in twenty runs must fail one of them.
_REPEATED = {"test_editors", "test_recipes", "test_service", "test_terminal", "test_tools"}

replace_environment()

# In a shell's background Ctrl-C is ignored, and by what the tests start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("jobfs", deadline=None, max_examples=40)
settings.load_profile("jobfs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem not in _REPEATED:
            item.add_marker(pytest.mark.flaky(reruns=0))
        if reason := why_skipped(item):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say first that no mount is possible; fail if mounts and programs must be there and are not. In the process that prints."""
    if hasattr(session.config, "workerinput"):
        return
    no_mount, printer = why_no_mount(), session.config.pluginmanager.get_plugin("terminalreporter")
    lacks = [reason for reason in (no_mount, why_programs_are_missing(list_test_programs())) if reason]
    if lacks and must_have_all():
        raise pytest.UsageError(f"{'; '.join(lacks)}; and JOBFS_TEST_NEEDS_ALL is set")
    if no_mount and printer is not None:
        printer.ensure_newline()
        printer.write_line(f"{no_mount}; the tests that mount are skipped")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say last how many tests were skipped, and why; those whose programs are missing in one line."""
    printer = config.pluginmanager.get_plugin("terminalreporter")
    if printer is None or hasattr(config, "workerinput"):
        return
    reasons = [_reason(report) for report in printer.stats.get("skipped", [])]
    programs = {
        name for reason in reasons if reason.startswith(MISSING) for name in reason.split(": ")[1].split(", ")
    }
    for kind, number in Counter(_kind(reason) for reason in reasons).items():
        if kind:
            why = f"{MISSING}: {', '.join(sorted(programs))}" if kind == MISSING else kind
            printer.write_line(f"{number} {'test' if number == 1 else 'tests'} skipped, because {why}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason with which a test was skipped."""
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""


def _kind(reason: str) -> str:
    """Return what is counted under one line; "" for other reasons."""
    for kind in (NEEDS_ROOT, MISSING):
        if reason.startswith(kind):
            return kind
    return reason if reason.startswith(NO_MOUNT) else ""


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("stand-ins"))


@pytest.fixture(autouse=True)
def only_named_programs(request: pytest.FixtureRequest, stand_ins: StandIns) -> Iterator[None]:
    """Each test finds only the programs that it names."""
    with stand_ins.in_place_of_all_but(named_programs(request.node)):
        yield


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that can mount, as far as the checks of `mount` and `doctor` see, whatever this one can."""
    for check in ("check_device", "pin_libfuse_for_fusepy", "check_may_mount"):
        monkeypatch.setattr(f"jobfs.cli.preflight.{check}", lambda: "is well")


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Mounts start as forks of it: it has imported jobfs once."""
    forks = ForkServer(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()
