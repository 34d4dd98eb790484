from __future__ import annotations

import json

import pytest

from jobfs.emulator import Behaviour, StoredItem
from jobfs.emulator.wire import error_json, item_json, timestamp

MOMENT = 1_700_000_000_123_456
FILE = StoredItem("i" * 24, "file", "d/n.md", "user", "expertJob", "readWrite", MOMENT, MOMENT, 5, "blob")
DIRECTORY = StoredItem("d" * 24, "directory", "d", "user", "application", "readOnly", MOMENT, MOMENT)


@pytest.mark.parametrize(
    ("resolution", "shown"),
    [("microseconds", "20.123456Z"), ("milliseconds", "20.123Z"), ("seconds", "20.000Z")],
)
def test_times_are_cut_to_their_resolution(resolution: str, shown: str) -> None:
    assert timestamp(MOMENT, resolution) == "2023-11-14T22:13:" + shown


def test_a_file_has_every_field_of_the_contract() -> None:
    assert json.loads(item_json(FILE, "j" * 24, Behaviour())) == {
        "type": "workspaceItemFile",
        "id": "i" * 24,
        "owner": "user",
        "lifecycle": "expertJob",
        "permission": "readWrite",
        "path": "d/n.md",
        "createdAt": "2023-11-14T22:13:20.123Z",
        "updatedAt": "2023-11-14T22:13:20.123Z",
        "key": f"expert_jobs/{'j' * 24}/workspace/{'i' * 24}",
        "mimeType": "text/markdown",
        "size": 5,
    }


def test_a_directory_has_no_content_fields() -> None:
    item = json.loads(item_json(DIRECTORY, "j" * 24, Behaviour()))
    assert item["type"] == "workspaceItemDirectory"
    assert not {"key", "mimeType", "size"} & set(item)


def test_the_other_spellings() -> None:
    behaviour = Behaviour(path_style="slash", type_spelling="short", sizes="omitted")
    item = json.loads(item_json(FILE, "j" * 24, behaviour))
    assert (item["type"], item["path"], "size" in item) == ("file", "/d/n.md", False)


def test_error_bodies_are_those_of_the_reference() -> None:
    assert json.loads(error_json(422, [])) == {"code": 422, "error": "Validation Failed", "reason": []}
    assert json.loads(error_json(404, "x")) == {"code": 404, "error": "Not Found", "reason": "x"}
