"""The API client: one typed method for each endpoint of the Workspace Instance API."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

# httpx has a command line of its own; without what that imports, a mount is there a tenth sooner.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

if TYPE_CHECKING:
    from jobfs.api.address import check_base_url, check_job_id
    from jobfs.api.client import Client
    from jobfs.api.create import CreateEncoding
    from jobfs.api.download import Download
    from jobfs.api.health import Health
    from jobfs.api.key import FileKey, KeySource, fixed_key
    from jobfs.api.models import MOST_ITEMS, Instance, Page

__all__ = [
    "MOST_ITEMS",
    "Client",
    "CreateEncoding",
    "Download",
    "FileKey",
    "Health",
    "Instance",
    "KeySource",
    "Page",
    "check_base_url",
    "check_job_id",
    "fixed_key",
]

_HOMES = {
    "address": ("check_base_url", "check_job_id"),
    "client": ("Client",),
    "create": ("CreateEncoding",),
    "download": ("Download",),
    "health": ("Health",),
    "key": ("FileKey", "KeySource", "fixed_key"),
    "models": ("MOST_ITEMS", "Instance", "Page"),
}


def __getattr__(name: str) -> object:
    # Late: a command that asks no server does not wait for httpx to load.
    for home, exported in _HOMES.items():
        if name in exported:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
