from __future__ import annotations

from pathlib import Path

import pytest

from jobfs.api.access import FileKey, check_job_id, find_proxy, fixed_key, normalize_base_url
from jobfs.errors import UsageError


@pytest.mark.parametrize(("given", "normal"), [
    ("https://api.example.test", "https://api.example.test"),
    (" HTTPS://API.Example.Test/ ", "https://api.example.test"),
    ("https://api.example.test:443/", "https://api.example.test"),
    ("https://api.example.test:8443/base/", "https://api.example.test:8443/base"),
    ("http://localhost:8080", "http://localhost:8080"), ("http://127.0.0.1:80/", "http://127.0.0.1"),
    ("http://127.9.9.9:1", "http://127.9.9.9:1"), ("http://[::1]:9000/", "http://[::1]:9000"),
])  # fmt: skip
def test_a_base_url_is_normalised(given: str, normal: str) -> None:
    assert normalize_base_url(given) == normal
    assert normalize_base_url(normal) == normal


PLAIN = ("api.example.test", "localhost.example.test", "127.0.0.1.example.test", "0.0.0.0", "[::2]")
MALFORMED = (
    "", "api.example.test", "ftp://api.example.test", "https://", "https://host:port", "https://host:0", "https://ho st",
    "https://host/?a=b", "https://host/#x", "https://host/a b", "https://host/../x", "https://host/%2Fx", "https://[::1",
)  # fmt: skip
PASSWORD = "https://me:hunter2@api.example.test"


@pytest.mark.parametrize(("url", "message"), [
    *((f"http://{host}", "plain http.*use https://") for host in PLAIN),
    *((url, "base URL") for url in MALFORMED), (PASSWORD, "user name or password"),
])  # fmt: skip
def test_a_base_url_that_would_expose_the_key_is_refused(url: str, message: str) -> None:
    """vfs/semantics.md 6.10: TLS is verified; plain http only to loopback. A password is not repeated."""
    with pytest.raises(UsageError, match=message) as caught:
        normalize_base_url(url)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "job_id", ["", "short", "TEST12345678901234567890", "test1234567890123456789/", "a" * 25, "a" * 24 + "\n"]
)
def test_a_malformed_job_id_is_refused(job_id: str) -> None:
    with pytest.raises(UsageError, match="not a job id"):
        check_job_id(job_id)


def test_the_proxy_of_the_environment_is_used_except_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert find_proxy("https://api.example.test") is None
    for given in ("http://proxy.example.test:3128", "proxy.example.test:3128"):
        for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, given)
            assert find_proxy("https://api.example.test") == "http://proxy.example.test:3128"
        assert {
            find_proxy(url) for url in ("http://127.0.0.1:1", "http://localhost", "https://[::1]:8443")
        } == {None}
    monkeypatch.setenv("NO_PROXY", "example.test")
    assert find_proxy("https://api.example.test") is None


@pytest.mark.parametrize("key", ["", "  \n", "two words", "tab\tinside", "schlüssel", "line\nbreak"])
def test_text_that_is_invalid_in_a_header_is_not_a_key(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        fixed_key(key)
    if key.strip():
        assert key.strip() not in str(caught.value)


def test_a_missing_key_file_leaves_the_last_key_in_use(tmp_path: Path) -> None:
    """vfs/semantics.md 6.8: a file that has changed is read again."""
    file = tmp_path / "key"
    file.write_text("first\n")
    key = FileKey(file)
    assert key() == "first"
    assert "first" not in repr(key)
    file.write_text("other")
    assert key() == "other"
    file.write_text("")
    assert key() == "other"
    file.unlink()
    assert key() == "other"


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"])
def test_a_key_file_that_never_had_a_key_is_bad_input(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=r"no API key in .*key: "):
        FileKey(tmp_path / "key")()
