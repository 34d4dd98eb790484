from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jobfs.api import transport
from jobfs.api.address import proxy_for
from jobfs.api.transport import pool
from jobfs.errors import UsageError


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_the_proxy_of_the_environment_is_used(no_proxies: pytest.MonkeyPatch) -> None:
    assert proxy_for("https://api.example.test") is None
    no_proxies.setenv("HTTPS_PROXY", "http://proxy.example.test:3128")
    assert proxy_for("https://api.example.test") == "http://proxy.example.test:3128"
    no_proxies.setenv("HTTPS_PROXY", "proxy.example.test:3128")
    assert proxy_for("https://api.example.test") == "http://proxy.example.test:3128"
    no_proxies.setenv("NO_PROXY", "example.test")
    assert proxy_for("https://api.example.test") is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost:8080", "https://[::1]:8443"])
def test_loopback_is_never_proxied(no_proxies: pytest.MonkeyPatch, url: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        no_proxies.setenv(name, "http://proxy.example.test:3128")
    assert proxy_for(url) is None


@pytest.fixture
def fresh_context() -> None:
    transport._ssl_context.cache_clear()


def test_all_clients_of_a_process_share_one_tls_context() -> None:
    assert transport._ssl_context() is transport._ssl_context()
    assert transport._ssl_context().check_hostname
    assert transport._ssl_context().verify_mode.name == "CERT_REQUIRED"


@pytest.mark.usefixtures("fresh_context")
def test_certificates_that_can_not_be_read_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        pool("https://127.0.0.1:1", 30, 4)


@pytest.mark.parametrize("timeout", [0.1, 1, 30, 3600])
def test_a_dead_peer_is_noticed_before_the_deadline_where_whole_seconds_allow(timeout: float) -> None:
    options = {option: value for _, option, value in transport._socket_options(timeout)}
    assert 1 <= options[socket.TCP_KEEPIDLE] <= max(1, timeout)
    assert options[socket.TCP_USER_TIMEOUT] <= max(1, timeout) * 1000
    with socket.socket() as sock:
        for level, option, value in transport._socket_options(timeout):
            sock.setsockopt(level, option, value)


def test_a_useless_proxy_is_one_sentence_without_its_password(no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("HTTPS_PROXY", "gopher://user:hunter2@proxy.test")
    with pytest.raises(UsageError, match="HTTPS_PROXY") as caught:
        pool("https://example.test", 30, 4)
    assert "hunter2" not in str(caught.value)
