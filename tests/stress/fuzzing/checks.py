"""What must hold whatever a server sends."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable

from tests.support.waiting import eventually

from jobfs import names
from jobfs.api.client import Client
from jobfs.api.deadline import within
from jobfs.errors import JobfsError
from jobfs.namespace import Namespace
from jobfs.nodes import Item, Kind, Permission

from .answers import Answer, good
from .world import GOOD, HURRY, World

#: Seconds that one call may take: the deadline, and what a loaded machine adds to it.
SLACK = 10.0
#: Bytes that the process may grow by over all that is tried.
ROOM = 256 << 20

#: Versions of a content that no earlier answer has told anything of.
_VERSIONS = itertools.count()


class Growth:
    """How much more memory the process has had at most than when this was made."""

    def __init__(self) -> None:
        self._before = _peak()

    def check(self) -> None:
        """Raises AssertionError if it is more than any bound on answers allows."""
        assert self.mib << 20 < ROOM, f"the process grew by {self.mib} MiB"

    @property
    def mib(self) -> int:
        """That, in MiB."""
        return _peak() - self._before >> 20


def check_odd_items(world: World, odd: list[bytes]) -> None:
    """Items of whatever form hide themselves at most: the others are listed, found and read."""
    world.answer, world.odd = None, odd
    namespace, content = world.patient.namespace, world.patient.content
    namespace.refresh()
    shown = namespace.children("", max_age=60.0)
    for name, item in shown.items():
        assert names.hostile(name) is None
        _check_item(item)
    for number in range(GOOD):
        path = str(good(number)["path"])
        found = namespace.lookup(path)
        assert found is not None
        if found.id != good(number)["id"]:
            continue  # an odd item that makes sense, and is newer: which is shown is a rule of its own
        assert path in shown
        with content.open(found) as handle:
            assert handle.read(0, 100) == path.encode()
    namespace.status()


def check_any_answer(world: World, answer: Answer) -> None:
    """Every call ends in time, with a result or an error of errors.py; and nothing of it lasts."""
    world.answer, world.odd = answer, []
    client, namespace, content = world.hurried.client, world.hurried.namespace, world.hurried.content
    item_id = str(good(0)["id"])
    item = Item(item_id, Kind.FILE, "good0", updated_at=f"version {next(_VERSIONS)}")
    calls: list[Callable[[], object]] = [
        client.instance,
        lambda: client.list_page(100, 0),
        lambda: client.find("good0"),
        lambda: client.get(item_id),
        lambda: client.create_file("x", world.source, 5, Permission.READ_WRITE),
        lambda: client.create_directory("x", Permission.READ_WRITE),
        lambda: client.update(item_id, path="x"),
        lambda: client.delete(item_id),
        lambda: _downloaded(client, item_id, 0),
        lambda: _downloaded(client, item_id, 2),
        namespace.refresh,
        lambda: namespace.children(""),
        lambda: namespace.lookup("good0"),
        lambda: content.measure(item),
    ]
    for call in calls:
        began = time.monotonic()
        try:
            # As a program that waits: the background would leave the server alone after the first `Retry-After`.
            with within(HURRY):
                result = call()
        except JobfsError as error:
            str(error).encode()
        else:
            if isinstance(result, Item):
                _check_item(result)
        assert time.monotonic() - began < HURRY + SLACK
    world.answer = None
    eventually(lambda: _recovered(namespace), "what is right is listed again")


def _downloaded(client: Client, item_id: str, start: int) -> bytes:
    with client.download(item_id, start) as body:
        return b"".join(body.chunks())


def _recovered(namespace: Namespace) -> bool:
    try:
        with within(HURRY):
            namespace.refresh()
    except JobfsError:
        return False
    return {str(good(number)["path"]) for number in range(GOOD)} <= namespace.children(
        "", max_age=60.0
    ).keys()


def _check_item(item: Item) -> None:
    """What others do with an item: put it into a journal, a name of a file, an attribute."""
    for text in (item.id, item.updated_at, item.created_at, item.owner, item.mime_type, item.key):
        text.encode()
    item.updated_ns.to_bytes(8, "little", signed=True)
    assert item.size is None or 0 <= item.size < 2**63


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
