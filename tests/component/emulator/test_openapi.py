"""The local server against the OpenAPI description beside this file: requests that fit it and requests that do not.

Three of schemathesis's checks are left out where the reference says otherwise. `positive_data_acceptance` takes every 400
for a fault, but whether a path is free and has its directory is not in a description (which reasons there may be is, and is
checked). `unsupported_method` wants 405 to POST items/find, which is an update of the item "find", a malformed id: 422.
`ensure_resource_availability` wants a directory to be downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from jobfs.emulator import DEFAULT_JOB, DEFAULT_KEY, Server

from .conftest import Wire

#: Ids that the description gives to items; a test puts the real ones in their place.
DIRECTORY, FILE, EMPTY, GONE = ("1" * 24, "2" * 24, "3" * 24, "0" * 24)
QUICK = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def description() -> schemathesis.BaseSchema:
    """The description, with the ids of a job and of items, and of ones that are not there."""
    raw = dict(schemathesis.openapi.from_path(Path(__file__).parent / "openapi.yaml").raw_schema)
    parameters = raw["components"]["parameters"]
    parameters["job"]["schema"] = {"enum": [DEFAULT_JOB, GONE]}
    parameters["item"]["schema"] = {"enum": [DIRECTORY, FILE, EMPTY, GONE]}
    off = {"enabled": False}
    config = {
        "headers": {"Authorization": f"Bearer {DEFAULT_KEY}"},
        "checks": {"positive_data_acceptance": off},
        "operations": [
            {"include-operation-id": "find", "checks": {"unsupported_method": off}},
            {"include-operation-id": "download", "checks": {"ensure_resource_availability": off}},
        ],
    }
    return schemathesis.openapi.from_dict(raw, config=SchemathesisConfig.from_dict(config))


DESCRIPTION = description()


@pytest.fixture
def ids(server: Server) -> dict[str, str]:
    """The real id of each id of the description."""
    items = server.store.seed({"d": None, "d/f": b"\xff\0text", "e.txt": ""})
    return dict(zip((DIRECTORY, FILE, EMPTY), (item.id for item in items), strict=True))


@DESCRIPTION.parametrize()
@QUICK
def test_all_requests_are_answered_as_described(case: Any, wire: Wire, ids: dict[str, str]) -> None:
    item = case.path_parameters.get("workspaceItemId")
    if isinstance(item, str):
        case.path_parameters["workspaceItemId"] = ids.get(item, item)
    case.call_and_validate(base_url=wire.server.url)
