"""The cases of system calls (texts/), a group for each call, on a disk and on a mount."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both, beside, place
from tests.support.mounts import mounting

from jobfs.emulator import Behaviour, EmulatorConfig, Server, running

_TEXTS = {
    path.stem: path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "texts").glob("*.txt")
}
_GROUPS = {group: cases(group, text) for group, text in sorted(_TEXTS.items())}
_ALL = [case for group in _GROUPS.values() for case in group]
_PAGE = Path(__file__).parents[2] / "src" / "jobfs" / "vfs" / "semantics.md"


def marked(group: list[Case]) -> list[Any]:
    """The cases as parameters, those that need root with the marker."""
    needs_root = pytest.mark.needs_root("only root can give files away and act as other users")
    return [pytest.param(case, marks=[needs_root] if case.needs_root else []) for case in group]


#: Groups that want a mount of their own.
LINKS, READ_ONLY = _GROUPS.pop("links"), _GROUPS.pop("read-only")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A disk and a mount, where each case makes a directory of its own."""
    with beside(tmp_path_factory.mktemp("conformance"), Behaviour()) as (_, made):
        yield made


@pytest.mark.parametrize("case", marked([*itertools.chain(*_GROUPS.values())]), ids=lambda case: case.name)
def test_calls_answer_as_on_a_disk(both: Both, case: Case) -> None:
    """vfs/semantics.md 2.8, 2.12, 2.13, 2.16: owners are remembered; links, devices, pipes and attributes are refused."""
    both.compare(case)


# -- with --local-symlinks


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with beside(tmp_path_factory.mktemp("links"), Behaviour(), local_symlinks=True) as (_, made):
        yield made


@pytest.mark.parametrize("case", marked(LINKS), ids=lambda case: case.title)
def test_links_behave_as_on_a_disk(linked: Both, case: Case) -> None:
    """vfs/semantics.md 2.12: with --local-symlinks a link is kept on this machine only."""
    linked.compare(case)


# -- read-only


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(EmulatorConfig(behaviour=Behaviour()), tmp_path_factory.mktemp("server")) as server:
        server.store.seed({"f": "text", "d/g": "more"})
        yield server


@pytest.fixture(scope="module")
def read_only(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    home = tmp_path_factory.mktemp("read-only")
    disk = home / "disk"
    (disk / "d").mkdir(parents=True)
    (disk / "f").write_text("text")
    (disk / "d/g").write_text("more")
    with (
        mounting(server, home / "home", read_only=True) as mounted,
        place(disk, read_only=True) as here,
        place(mounted.path) as there,
    ):
        yield Both(here, there, make=False)


@pytest.mark.needs_root("only root can make a directory of the disk read-only")
@pytest.mark.parametrize("case", READ_ONLY, ids=lambda case: case.title)
def test_a_read_only_mount_answers_as_a_read_only_disk(read_only: Both, server: Server, case: Case) -> None:
    """vfs/semantics.md 4.40: read-only mounts refuse everything that writes with EROFS, and make no changing request."""
    read_only.compare(case)
    assert server.log.changes() == []


# -- the page


def test_each_differing_case_proves_a_row_of_the_table_of_differences() -> None:
    assert [case.name for case in _ALL if case.differs != bool(case.row)] == []
    table = re.split(r"^<!-- /?differences -->$", _PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    _, *rows = re.findall(r"^\| (.*?) \| ", table, re.MULTILINE)
    assert sorted(rows) == sorted({case.row for case in _ALL if case.differs})
