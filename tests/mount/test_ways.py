"""A mount over https with an authority of one's own, through a proxy that wants a password, and behind a bad gateway."""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import gateway as between
from tests.support.files import errno_from, save_file
from tests.support.gateway import NAME, Asked, Gateway, Proxy, Reply, gateway
from tests.support.mounts import Mount, MountedJob, is_mounted
from tests.support.serverside import visible
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
    authority, tls = between.make_certificate(tmp_path)
    variables["SSL_CERT_FILE"] = str(authority)
    with gateway(server, tls) as made:
        yield made


@pytest.fixture
def proxy(front: Gateway, variables: dict[str, str]) -> Iterator[Proxy]:
    """The way through a proxy, to a name that only the proxy knows."""
    with between.proxying(front.server_address[1], "me:hunter 2@") as made:
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


# an answer without an end takes a bounded amount of a mount's time, memory and disk

#: --timeout, seconds that a call may take beyond it, and bytes that one attack may add to the mount's peak of memory.
TIMEOUT, SLACK, ROOM = 10, 10, 256 << 20
GZIP = (("Content-Encoding", "gzip"),)


@pytest.fixture
def before(server: Server) -> Iterator[Gateway]:
    with gateway(server) as made:
        yield made


def peak(job: MountedJob) -> int:
    """The most memory that the mount's process has had, in bytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{job.pid}/status").read_text())
    return int(kilobytes) << 10


def test_an_endless_listing_is_eio_and_single_names_are_found(before: Gateway, mount: Mount) -> None:
    """vfs/semantics.md 5.8: EIO within the deadline; the memory it takes is bounded; names and bytes are served, and saved."""
    before.store.write("known.txt", b"known")
    mounted = mount(base_url=before.url, timeout=TIMEOUT, cache_size="16M")
    bomb, used = gzip.compress(b" " * (64 << 20)), peak(mounted)
    before.answer = lambda asked: Reply(between.endless(before, bomb), 200, GZIP) if asked.listing else None
    began = time.monotonic()
    assert errno_from(os.listdir, mounted.path) == errno.EIO
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert (mounted.path / "known.txt").read_bytes() == b"known"
    assert not (mounted.path / "unknown.txt").exists()
    for name in ("known.txt", "new.txt"):
        (mounted.path / name).write_bytes(b"saved")
    mounted.flush()
    for name in ("known.txt", "new.txt"):
        assert before.store.read(name) == b"saved"
    # Just after another attempt to list, the server counts as one that does not answer, until it answers such a look.
    looks = (mounted.path / f"unknown-{number}" for number in itertools.count())
    eventually(lambda: not next(looks).exists() and "can't be listed" in str(mounted.status()["problems"]))
    assert peak(mounted) - used < ROOM
    before.answer = lambda asked: None
    eventually(lambda: errno_from(os.listdir, mounted.path) == 0)
