"""The server's address, the proxy to it, and the API key, which must not appear in any message."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from jobfs.errors import UsageError

_JOB_ID = re.compile(r"[a-z0-9]{24}")
_HOST = re.compile(r"[A-Za-z0-9_.:-]+")
_ODD_PATH = re.compile(r"[^!-~]|%2f|/\.\.?(/|$)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_KEY = re.compile(r"[!-~]+")

#: A function that returns the current key, valid as a header value; any thread calls it before each attempt.
KeySource = Callable[[], str]


def normalize_base_url(url: str) -> str:
    """Return the base URL in normal form: lower-case scheme and host, no default port, no trailing slash.

    Raises UsageError if the URL is not a base URL, or if the key must not be sent to it (api/wire.md, Authentication).
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError("the base URL is not a valid URL: give one like https://api.perstack.ai") from None
    if "@" in parts.netloc:
        raise UsageError("the base URL must not contain a user name or password: leave them out")
    if not (_is_origin(parts.scheme, host, port) and _is_plain_path(parts)):
        raise UsageError(f"{url!r} is not a base URL: give one like https://api.perstack.ai")
    if parts.scheme == "http" and not is_loopback(host):
        raise UsageError(f"refusing to send the API key over plain http to {host}: use https://{host}")
    netloc = f"[{host}]" if ":" in host else host
    if port not in (None, _DEFAULT_PORTS[parts.scheme]):
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def _is_origin(scheme: str, host: str, port: int | None) -> bool:
    return scheme in _DEFAULT_PORTS and port != 0 and _HOST.fullmatch(host) is not None


def _is_plain_path(parts: SplitResult) -> bool:
    """Return whether the URL has neither query nor fragment, and a path to which the API's paths can safely be appended."""
    return not (parts.query or parts.fragment or _ODD_PATH.search(parts.path))


def check_job_id(job_id: str) -> str:
    """Return the job id unchanged; raises UsageError unless it matches the API's pattern."""
    if not _JOB_ID.fullmatch(job_id):
        raise UsageError(f"{job_id!r} is not a job id: it has 24 characters, a to z and 0 to 9")
    return job_id


def is_loopback(host: str) -> bool:
    """Return whether `host` names this machine, without asking a name server."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_proxy(base_url: str) -> str | None:
    """Return the proxy that the environment names for this server, or None; loopback is never proxied."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    import urllib.request  # imported here: it loads most of `http`, which loopback does not need

    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _validate_key(key: str) -> str:
    """Return the key without surrounding white space; raises UsageError if it is not valid in a header."""
    key = key.strip()
    if not key:
        raise UsageError("the API key is empty: set PERSTACK_API_KEY or give --api-key-file")
    if not _KEY.fullmatch(key):
        raise UsageError("the API key contains characters that no key has: check where it was copied from")
    return key


def fixed_key(key: str) -> KeySource:
    """Return a source that always returns this key; raises UsageError at once if the key is not valid."""
    checked = _validate_key(key)
    return lambda: checked


class FileKey:
    """A key in a file, which is read for every request (vfs/semantics.md 6).

    While the file is missing, empty or invalid, perhaps because it is being replaced, the last valid key stays in use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = ""

    def __call__(self) -> str:
        """Return the key in the file, or the last valid one; raises UsageError if there was none."""
        try:
            self._key = _validate_key(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, UsageError) as exc:
            if not self._key:
                why = getattr(exc, "strerror", None) or "write the key into that file, and nothing else"
                raise UsageError(f"no API key in {self._path}: {why}") from None
        return self._key


def redact_key(text: str, key: str) -> str:
    """Return `text` with the key replaced, in case a server or a library has echoed it."""
    return text.replace(key, "***")
