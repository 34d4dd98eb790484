"""The work of the endpoints under any order of requests; what each answers is in test_routes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from jobfs.emulator import DEFAULT_JOB, Behaviour, JobSide
from jobfs.emulator.records import DIRECTORY, FILE, Missing, Refused, parent
from jobfs.emulator.store import Store

PATHS = ["a", "b", "a/b", "a/c", "a/b/c", "b/a"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["file", "directory", "move", "delete"]),
        st.sampled_from(PATHS),
        st.sampled_from(PATHS),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sampled_from(["reject", "overwrite"]))
def test_a_tree_made_by_requests_is_a_tree_and_the_disk_has_it(
    steps: list[tuple[str, str, str]], existing: str
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary), Behaviour().changed(create_existing=existing))
        workspace = store.add_job(DEFAULT_JOB)
        side = JobSide(workspace)
        for operation, path, other in steps:
            here = side.at(path)
            try:
                if operation == "file":
                    blob = store.new_blob()
                    blob.close()
                    workspace.create(FILE, path, "readWrite", blob.name, 0)
                elif operation == "directory":
                    workspace.create(DIRECTORY, path, "readWrite")
                elif operation == "move" and here:
                    workspace.update(here[0].id, other, None, None)
                elif here:
                    workspace.delete(here[0].id)
            except (Refused, Missing):
                pass
            paths = [item.path for item in side.items()]
            assert len(paths) == len(set(paths))
            kinds = {item.path: item.is_dir for item in side.items()}
            assert all(kinds[parent(path)] for path in paths if parent(path))
        items = side.items()
        store.close()
        store = Store(Path(temporary))
        again = JobSide(store.workspaces[DEFAULT_JOB])
        assert again.items() == items
        assert all(again.content(item.id) == b"" for item in items if not item.is_dir)
        store.close()
