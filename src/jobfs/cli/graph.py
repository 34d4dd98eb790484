"""The object graph of a mount: what is built from what. No other module knows all the parts."""

from __future__ import annotations

from jobfs.api.access import KeySource, normalize_base_url
from jobfs.api.client import Client
from jobfs.content import ContentStore
from jobfs.mount import MountParts
from jobfs.namespace import Namespace
from jobfs.settings import Settings
from jobfs.state.directory import StateDirectory
from jobfs.state.server import KnownServer
from jobfs.state.tables import State
from jobfs.vfs import Vfs


def build_mount(
    settings: Settings, job: str, place: StateDirectory, key: KeySource, expected_items: int = 0
) -> MountParts:
    """Build everything that serves `job`, with its unsent work in `place`. Make no request and start nothing.

    `expected_items`: the approximate number of items of the job. Raises UsageError if the journal can't be used.
    """
    state = State(place.path, settings.keep_saves)
    server = KnownServer(settings.state_dir, normalize_base_url(settings.base_url))
    client = Client(
        settings.base_url,
        job,
        key,
        timeout=settings.timeout,
        max_connections=settings.max_connections,
        create_encoding=settings.create_encoding,
    )
    content = ContentStore(
        client,
        settings.cache_dir / job / place.mount_id,
        owner=place.path,
        limit=settings.cache_size,
        timeout=settings.timeout,
        ranges=server.facts.ranges,
    )
    namespace = Namespace(
        client,
        ttl=settings.ttl,
        kernel_timeout=settings.kernel_timeout,
        stale_if_error=settings.stale_if_error,
        expected=expected_items,
        is_decided_here=state.index.is_decided_here,
    )

    def close() -> None:
        content.close()
        client.close()

    return MountParts(
        vfs=Vfs(settings, place, client, content, namespace, state, server),
        abort_requests=client.abort_requests,
        close=close,
    )
