"""What stands in for a class in tests has the calls of that class: the type check is not asked there."""

from __future__ import annotations

from inspect import Parameter, signature

import pytest
from tests.unit.content.world import FakeClient as Transfers
from tests.unit.namespace.world import Server
from tests.unit.save.test_queue import Runner
from tests.unit.save.world import FakeClient, FakeContent, FakeNamespace
from tests.unit.test_mount import DrainedVfs, SilentVfs
from tests.unit.vfs.world import ServerInMemory

from jobfs.api.client import Client
from jobfs.content import ContentStore
from jobfs.namespace import Namespace
from jobfs.save.cleanup import Cleanup
from jobfs.save.replace import Replacer
from jobfs.vfs import Vfs
from jobfs.vfs.report import Report

#: A double, what it stands for, and the names that are asked of it.
DOUBLES: list[tuple[type, type, str]] = [
    (Server, Client, "list_page find get require_workspace"),
    (Transfers, Client, "get update download"),
    (FakeClient, Client, "hold_connection get find download delete update create_file create_directory"),
    (ServerInMemory, Client, "probe_recovery abort_requests get_instance list_page find get download require_workspace"),
    (FakeNamespace, Namespace, "record_own_change record_deleted invalidate note_names_changed peek refresh "
                               "has_listing_since last_seen_at peek_by_id lookup"),
    (FakeNamespace, Namespace, "subtree children hidden_items"),
    (FakeContent, ContentStore, "exclude_verification is_cached open create_partial_from drop_replaced remember_size adopt_file"),
    (Runner, Replacer, "run_change"),
    (Runner, Cleanup, "clean_up"),
    (DrainedVfs, Vfs, "flush_all"),
    (DrainedVfs, Report, "list_unsent"),
    (SilentVfs, Report, "list_unsent"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("double", "real", "names"), DOUBLES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_test_double_has_the_signatures_of_the_real_class(double: type, real: type, names: str) -> None:
    for name in names.split():
        there, ours = getattr(real, name), getattr(double, name)
        if callable(there):
            wanted, taken = signature(there).parameters, signature(ours).parameters
            rest = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in taken.values())
            missing = [p for p in wanted if p not in taken and wanted[p].default is Parameter.empty]
            assert (rest or not missing, [p for p in taken if p not in wanted and not rest]) == (True, []), (
                name
            )
