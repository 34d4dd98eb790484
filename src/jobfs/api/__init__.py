"""The API client: one typed method for each endpoint of the Workspace Instance API."""

from jobfs.api.address import check_base_url, check_job_id
from jobfs.api.client import Client
from jobfs.api.create import CreateEncoding
from jobfs.api.download import Download
from jobfs.api.health import Health
from jobfs.api.key import FileKey, KeySource, fixed_key
from jobfs.api.known import Known
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
    "Known",
    "Page",
    "check_base_url",
    "check_job_id",
    "fixed_key",
]
