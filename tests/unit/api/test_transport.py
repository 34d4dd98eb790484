from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jobfs.api import transport
from jobfs.api.transport import pool
from jobfs.errors import UsageError


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
