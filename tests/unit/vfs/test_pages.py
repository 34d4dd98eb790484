"""When the kernel may keep its pages of a file that is opened again."""

from __future__ import annotations

import pytest

from jobfs.nodes import Version
from jobfs.vfs.pages import KernelPages

ONE, OTHER = Version("a", "1", 10), Version("a", "2", 10)


@pytest.fixture
def pages() -> KernelPages:
    return KernelPages()


def visit(pages: KernelPages, path: str, version: Version | None) -> bool:
    """Opens and closes; True if the pages were kept."""
    kept, epoch = pages.opened(path, version)
    pages.closed(path, epoch)
    return kept


def test_the_same_version_at_the_same_path_keeps_its_pages(pages: KernelPages) -> None:
    assert [visit(pages, "x", ONE) for _ in range(3)] == [False, True, True]
    assert not visit(pages, "y", ONE), "another path has other pages"


def test_another_version_does_not(pages: KernelPages) -> None:
    visit(pages, "x", ONE)
    assert not visit(pages, "x", OTHER)
    assert visit(pages, "x", OTHER)
    assert not visit(pages, "x", ONE)


def test_nothing_is_kept_while_two_versions_are_open_nor_right_after(pages: KernelPages) -> None:
    visit(pages, "x", OTHER)
    _, first = pages.opened("x", ONE)
    _, second = pages.opened("x", OTHER)
    pages.closed("x", second)
    assert not visit(pages, "x", OTHER), "the first one is still open, and may be read"
    pages.closed("x", first)
    assert not visit(pages, "x", OTHER)
    assert visit(pages, "x", OTHER)


def test_a_writer_leaves_nothing_to_be_kept(pages: KernelPages) -> None:
    visit(pages, "x", ONE)
    _, writer = pages.opened("x", None)
    assert not visit(pages, "x", ONE)
    pages.closed("x", writer)
    assert not visit(pages, "x", ONE)
    assert visit(pages, "x", ONE)


def test_an_open_file_that_goes_on_with_a_newer_version_leaves_nothing_to_be_kept(pages: KernelPages) -> None:
    _, follower = pages.opened("x", ONE)
    pages.unsure("x")
    assert not visit(pages, "x", ONE)
    pages.closed("x", follower)
    assert not visit(pages, "x", ONE)
    pages.unsure("never opened")


def test_after_a_rename_nothing_is_kept_until_all_that_was_open_is_closed(pages: KernelPages) -> None:
    visit(pages, "x", ONE)
    _, before = pages.opened("y", OTHER)
    pages.renamed()
    _, after = pages.opened("x", ONE)
    assert not visit(pages, "x", ONE), "what is open as y may be x now"
    pages.closed("x", after)
    pages.closed("y", before)
    assert [visit(pages, "x", ONE) for _ in range(2)] == [False, True]
    pages.renamed()
    pages.renamed()
    assert [visit(pages, "x", ONE) for _ in range(2)] == [False, True]


def test_an_unbounded_number_of_paths_is_not_remembered(pages: KernelPages) -> None:
    for number in range(20_000):
        visit(pages, f"x{number}", ONE)
    assert len(pages._held) <= 16_384
    assert visit(pages, "x19999", ONE)
