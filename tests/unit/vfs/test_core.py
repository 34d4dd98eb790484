"""The Vfs as a whole: its start and its end, and that each of its methods is that of the part which it names."""

from __future__ import annotations

import errno
import inspect
import os
import re
import resource
from inspect import Parameter
from typing import Any
from unittest.mock import Mock

import pytest
from tests.support.files import errno_from
from tests.support.waiting import eventually
from tests.unit.state.conftest import accept, refuse

from jobfs.api.health import Health
from jobfs.errors import TooLargeError
from jobfs.namespace import Namespace
from jobfs.nodes import Version
from jobfs.vfs.attributes import AttributeOperations
from jobfs.vfs.core import Vfs, raise_descriptor_limit
from jobfs.vfs.drain import Drain
from jobfs.vfs.files import FileOperations
from jobfs.vfs.handles import PageCacheTracker
from jobfs.vfs.job_end import JobEnd
from jobfs.vfs.lookup import LookupOperations
from jobfs.vfs.report import Report
from jobfs.vfs.tree import NameOperations

from .conftest import MakeWorld
from .world import CALLER, World

PARTS = {part.__name__: part for part in (
    AttributeOperations, Drain, FileOperations, Health, JobEnd, LookupOperations, NameOperations, Namespace, PageCacheTracker,
    Report,
)}  # fmt: skip


def test_each_method_delegates_with_all_arguments(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter that a part has and the Vfs lacks, or does not pass on, would never reach it."""
    checked = 0
    for name, method in inspect.getmembers(Vfs, inspect.isfunction):
        found = re.match(r"See (\w+)(?:\.(\w+))?\.$", method.__doc__ or "")
        if found and name.isascii():  # not the copies that scripts/mutants adds
            part, own_name = PARTS[found[1]], found[2] or name
            signature = inspect.signature(getattr(part, own_name))
            assert _parameters(inspect.signature(method)) == _parameters(signature), name
            given = {each: object() for each in signature.parameters if each != "self"}
            named = {
                each: value
                for each, value in given.items()
                if signature.parameters[each].kind is Parameter.KEYWORD_ONLY
            }
            with monkeypatch.context() as patch:
                patch.setattr(part, own_name, called := Mock())
                answer = method(world.vfs, *(given[each] for each in given if each not in named), **named)
            assert answer in (called.return_value, None), name
            assert signature.bind(part, *called.call_args.args, **called.call_args.kwargs).arguments == {
                "self": part, **given,
            }, name  # fmt: skip
            checked += 1
    assert checked > 40


def _parameters(signature: inspect.Signature) -> list[tuple[str, object, object]]:
    return [(each.name, each.kind, each.default) for each in signature.parameters.values()]


def test_a_start_resumes_the_work_of_an_earlier_mount(make_world: MakeWorld) -> None:
    """vfs/semantics.md 4.3, 4.19."""
    world = make_world()
    world.seed({})
    world.write("file", b"unsent")
    vfs = make_world(after=world).vfs
    vfs.start()
    assert vfs.warnings == []
    assert vfs.taken_up == vfs.status()["taken_up"] != []
    eventually(lambda: [*world.server.paths.values()] == ["file"])


def test_a_read_only_mount_leaves_unsent_work_and_reports_it(make_world: MakeWorld) -> None:
    """vfs/semantics.md 4.40: no changing request is ever made."""
    world = make_world()
    world.seed({})
    world.write("file", b"unsent")
    vfs = make_world(after=world, read_only=True).vfs
    vfs.start()
    assert (vfs.earlier_unsent_count, vfs.taken_up) == (1, [])
    (warning,) = vfs.warnings
    assert re.search(r"earlier mount \(1\) .* jobfs recover", warning)
    assert world.server.items == {}


def test_a_retry_sends_what_the_server_has_refused(world: World) -> None:
    """vfs/semantics.md 4.12."""
    vfs = world.vfs
    vfs.start()
    world.server.fail("create", TooLargeError("too large", status=413))
    handle = vfs.create("file", 0o644, os.O_WRONLY, CALLER)
    assert errno_from(vfs.fsync, handle.fh) == errno.EFBIG
    vfs.release(handle.fh)
    assert vfs.retry("other") == []
    assert vfs.retry("file") == ["file"]
    eventually(lambda: [*world.server.paths.values()] == ["file"])


#: Each operation that changes something, and its arguments.
CHANGES: list[tuple[str, *tuple[Any, ...]]] = [
    ("open", "file", os.O_RDWR), ("open", "file", os.O_RDONLY | os.O_TRUNC), ("create", "new", 0o644, os.O_RDWR, CALLER),
    ("truncate", "file", 0), ("mkdir", "a", 0o755, CALLER), ("rmdir", "a"), ("unlink", "a"), ("rename", "a", "b"),
    ("symlink", "a", "target", CALLER), ("chmod", "file", 0o700), ("chown", "file", 1, 1), ("utimens", "file", 1, 1),
    ("upload_then_set_attributes", "file", {}), ("unlink_if_version", "file", Version("id of file", "1", 1), "0" * 64),
]  # fmt: skip


def test_a_read_only_mount_changes_nothing(make_world: MakeWorld) -> None:
    """vfs/semantics.md 4.40."""
    world = make_world(read_only=True)
    world.seed({"file": b"x"})
    failed = [(name, errno_from(getattr(world.vfs, name), *arguments)) for name, *arguments in CHANGES]
    assert failed == [(name, errno.EROFS) for name, *_ in CHANGES]
    assert world.requests() == []
    assert errno_from(world.vfs.open, "file", os.O_RDONLY) == 0


def test_a_stop_closes_open_files_once(world: World) -> None:
    """vfs/semantics.md 6.5: what is unsent stays in the journal."""
    world.put("file", b"x")
    opened = world.vfs.open("file", os.O_RDONLY)
    for _ in range(2):
        world.vfs.stop()
    assert errno_from(world.vfs.read, opened.fh, 1, 0) == errno.EBADF


def test_a_stop_records_what_programs_have_written(make_world: MakeWorld) -> None:
    """vfs/semantics.md 4.3, 6.5: as their close does; a file of which that fails costs no other."""
    world = make_world()
    world.seed({})
    for path in ("broken", "file"):
        world.vfs.write(world.vfs.create(path, 0o644, os.O_WRONLY, CALLER).fh, b"written", 0)
    journal, broken = world.slot.path / "journal.db", world.vfs.getattr("broken").ino
    refuse(journal, "disk I/O error", "INSERT ON file", when=f"NEW.key = {broken}")
    world.close()
    accept(journal)
    vfs = make_world(after=world).vfs
    vfs.start()
    recovered, closed = sorted(name for name, _ in vfs.listdir(""))
    assert (recovered.startswith("broken.recovered-"), closed) == (True, "file")


def test_as_many_descriptors_are_allowed_as_the_system_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 6.15: a system that refuses them keeps its present limit."""
    asked = []

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_descriptor_limit()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert asked == [(hard, hard)]
