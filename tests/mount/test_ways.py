"""A mount over https with an authority of one's own, and through a proxy that wants a password: real sockets, real TLS."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support.files import saved
from tests.support.mounts import MountedJob, is_mounted
from tests.support.serverside import visible
from tests.support.ways import NAME, Certificates, Way, certificates, way

from jobfs.emulator import Server

Mount = Callable[..., MountedJob]

#: Of more bytes than one record of TLS, and than the buffers of a socket.
LARGE = os.urandom(3 << 20)


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """What is trusted from here on, and no proxy."""
    made = certificates(tmp_path)
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
    return made


@pytest.fixture
def front(server: Server, tls: Certificates) -> Iterator[Way]:
    """The server, over TLS."""
    with way(urlsplit(server.url).port or 0, tls) as made:
        yield made


@pytest.fixture
def proxy(front: Way, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The way through a proxy, to a name that only the proxy knows."""
    with way(front.port, password="me:hunter 2@") as made:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter%202%40@127.0.0.1:{made.port}")
        yield made


@pytest.mark.parametrize("through", ["nothing", "proxy"])
def test_a_job_is_read_and_saved_over_tls(
    server: Server, mount: Mount, front: Way, through: str, request: pytest.FixtureRequest
) -> None:
    """vfs/semantics.md 6.9, 6.10: also after idle connections were closed, and after an outage; the key is never in the clear."""
    server.store.seed({"large": LARGE, "note": "text", "other": "text"}, age=60)
    proxy: Way | None = request.getfixturevalue("proxy") if through == "proxy" else None
    way = proxy or front
    mounted = mount(base_url=f"https://{NAME}" if proxy else f"https://127.0.0.1:{front.port}")
    at = mounted.path
    assert (at / "large").read_bytes() == LARGE
    saved(at / "large", LARGE[::-1])
    assert server.store.read("large") == LARGE[::-1]

    for _ in range(3):
        before = way.opened
        way.cut()
        saved(at / "note", b"%d" % before)
        assert server.store.read("note") == b"%d" % before
        assert way.opened > before
    assert mounted.status()["problems"] == []

    with way.down():
        (at / "other").write_bytes(b"kept here meanwhile")
        assert (at / "large").read_bytes() == LARGE[::-1]
    mounted.settled()
    mounted.umount()
    assert visible(server) == {"large": LARGE[::-1], "note": b"%d" % before, "other": b"kept here meanwhile"}
    if proxy is not None:
        assert (proxy.refused, front.opened) == (0, proxy.opened)
        assert not any(word in proxy.seen for word in (server.key.encode(), b"HTTP/1.1", server.job.encode()))
    assert "hunter" not in mounted.log


def refusal(job: MountedJob) -> str:
    """Why it can't be mounted: one sentence."""
    done = job.jobfs(*job.command()[3:])
    assert (done.returncode, is_mounted(job.path)) == (2, False)
    (sentence,) = done.stderr.splitlines()
    return sentence


def test_a_wrong_password_and_an_authority_that_is_not_trusted_are_told(
    mount: Mount, front: Way, proxy: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 6.3, 6.10: one clear sentence with the remedy; without a certificate that is trusted nothing is sent."""
    job = mount(start=False, base_url=f"https://{NAME}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter3@127.0.0.1:{proxy.port}")
    told = refusal(job)
    assert (
        "the proxy refuses to connect: 407 Proxy Authentication Required: correct user and password" in told
    )
    assert ("hunter" in told, proxy.opened, proxy.refused > 0) == (False, 0, True)
    monkeypatch.delenv("SSL_CERT_FILE")
    job.options["base_url"] = f"https://127.0.0.1:{front.port}"
    told = refusal(job)
    assert "the server's certificate is not trusted: " in told
    assert "SSL_CERT_FILE" in told
    assert front.seen == b""
