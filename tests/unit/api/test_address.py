from __future__ import annotations

import pytest

from jobfs.api.address import check_base_url, check_job_id
from jobfs.errors import UsageError


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("https://api.example.test", "https://api.example.test"),
        (" HTTPS://API.Example.Test/ ", "https://api.example.test"),
        ("https://api.example.test:443/", "https://api.example.test"),
        ("https://api.example.test:8443/base/", "https://api.example.test:8443/base"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:80/", "http://127.0.0.1"),
        ("http://127.9.9.9:1", "http://127.9.9.9:1"),
        ("http://[::1]:9000/", "http://[::1]:9000"),
    ],
)
def test_a_base_url_is_normalised(given: str, normal: str) -> None:
    assert check_base_url(given) == normal
    assert check_base_url(normal) == normal


PLAIN = (
    "api.example.test",
    "localhost.example.test",
    "127.0.0.1.example.test",
    "0.0.0.0",
    "10.0.0.1",
    "[::2]",
)
MALFORMED = (
    "", "api.example.test", "ftp://api.example.test", "https://", "https://host:port", "https://host:0", "https://ho st",
    "https://host/?a=b", "https://host/#x", "https://host/a b", "https://host/../x", "https://host/%2Fx", "https://[::1",
)  # fmt: skip
PASSWORD = "https://me:hunter2@api.example.test"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        *((f"http://{host}", "plain http.*use https://") for host in PLAIN),
        *((url, "base URL") for url in MALFORMED),
        (PASSWORD, "user name or password"),
    ],
)
def test_a_base_url_that_is_not_safe_for_a_key_is_refused_in_one_sentence(url: str, told: str) -> None:
    """vfs/semantics.md 6.10: TLS is verified; plain http only to loopback. A password is not repeated."""
    with pytest.raises(UsageError, match=told) as caught:
        check_base_url(url)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "job_id", ["", "short", "TEST12345678901234567890", "test1234567890123456789/", "a" * 25, "a" * 24 + "\n"]
)
def test_a_malformed_job_id_is_refused(job_id: str) -> None:
    with pytest.raises(UsageError, match="not a job id"):
        check_job_id(job_id)
