"""A mount over https with an authority of one's own, and through a proxy that wants a password: real sockets, real TLS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.files import save_file
from tests.support.gateway import Asked, Gateway, gateway
from tests.support.mounts import Mount, MountedJob, is_mounted
from tests.support.serverside import visible
from tests.support.tls_and_proxy import NAME, Proxy, make_certificate, proxying
from tests.support.waiting import eventually

from jobfs.emulator import Server

#: Of more bytes than one record of TLS, and than the buffers of a socket.
LARGE = os.urandom(3 << 20)


@pytest.fixture
def variables() -> dict[str, str]:
    """The variables by which a mount finds the way."""
    return {}


@pytest.fixture
def front(server: Server, tmp_path: Path, variables: dict[str, str]) -> Iterator[Gateway]:
    """The server over TLS, with an authority that mounts trust."""
    authority, tls = make_certificate(tmp_path)
    variables["SSL_CERT_FILE"] = str(authority)
    with gateway(server, tls) as made:
        yield made


@pytest.fixture
def proxy(front: Gateway, variables: dict[str, str]) -> Iterator[Proxy]:
    """The way through a proxy, to a name that only the proxy knows."""
    with proxying(front.server_address[1], "me:hunter 2@") as made:
        variables["HTTPS_PROXY"] = f"http://me:hunter%202%40@127.0.0.1:{made.server_address[1]}"
        yield made


@pytest.mark.parametrize("proxied", [False, True], ids=["directly", "through a proxy"])
def test_files_are_read_and_saved_over_tls(
    server: Server,
    mount: Mount,
    front: Gateway,
    variables: dict[str, str],
    proxied: bool,
    request: pytest.FixtureRequest,
) -> None:
    """vfs/semantics.md 6.9, 6.10: also after idle connections were closed, and after an outage; the key is never in the clear."""
    server.store.seed({"large": LARGE, "note": "text", "other": "text"}, age=60)
    proxy: Proxy | None = request.getfixturevalue("proxy") if proxied else None
    mounted = mount(start=False, base_url=f"https://{NAME}" if proxied else front.url)
    mounted.variables = variables
    mounted.mount()
    at = mounted.path
    assert (at / "large").read_bytes() == LARGE
    save_file(at / "large", LARGE[::-1])
    assert server.store.read("large") == LARGE[::-1]
    for number in range(3):
        before = len(front.connections)
        front.cut()
        save_file(at / "note", b"%d" % number)
        assert server.store.read("note") == b"%d" % number
        assert len(front.connections) > before
    assert mounted.status()["problems"] == []
    front.answer = breaks
    (at / "other").write_bytes(b"kept here meanwhile")
    assert (at / "large").read_bytes() == LARGE[::-1]
    eventually(lambda: "the server does not answer" in str(mounted.status()["problems"]))
    front.answer = lambda asked: None
    mounted.wait_until_settled()
    mounted.umount()
    assert visible(server) == {"large": LARGE[::-1], "note": b"2", "other": b"kept here meanwhile"}
    assert "hunter" not in mounted.log
    if proxy is not None:
        assert (proxy.refused, proxy.opened) == (0, len(front.connections))
        assert not any(word.encode() in proxy.seen for word in (server.key, server.job, "HTTP/1.1"))


def breaks(asked: Asked) -> None:
    """No answer, and the end of the connection."""
    raise ConnectionResetError


def refusal(job: MountedJob) -> str:
    """Why it can't be mounted: one sentence."""
    done = job.jobfs(*job.command()[3:])
    assert (done.returncode, is_mounted(job.path)) == (2, False)
    (sentence,) = done.stderr.splitlines()
    return sentence


def test_a_wrong_password_and_an_untrusted_authority_are_reported(
    mount: Mount, front: Gateway, proxy: Proxy, variables: dict[str, str]
) -> None:
    """vfs/semantics.md 6.3, 6.10: one clear sentence with the remedy; without a certificate that is trusted nothing is sent."""
    job = mount(start=False, base_url=f"https://{NAME}")
    job.variables = {**variables, "HTTPS_PROXY": f"http://me:hunter3@127.0.0.1:{proxy.server_address[1]}"}
    message = refusal(job)
    assert (
        "the proxy refuses to connect: 407 Proxy Authentication Required: correct user and password"
        in message
    )
    assert ("hunter" in message, proxy.opened, proxy.refused > 0) == (False, 0, True)
    del job.variables["SSL_CERT_FILE"]
    job.options["base_url"] = front.url
    message = refusal(job)
    assert "the server's certificate is not trusted: " in message
    assert "SSL_CERT_FILE" in message
    assert front.asked == []
