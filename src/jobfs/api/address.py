"""Where the server is: checks of base URL and job id, and the proxy that leads there."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from jobfs.errors import UsageError

_JOB_ID = re.compile(r"[a-z0-9]{24}")
_HOST = re.compile(r"[A-Za-z0-9_.:-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_base_url(url: str) -> str:
    """The base URL in its normal form: lower-case scheme and host, no default port, no trailing slash.

    Raises UsageError for anything a key must not be sent to (api/wire.md, Authentication), or that is no base URL.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError("the base URL is not a valid URL: give one like https://api.perstack.ai") from None
    if "@" in parts.netloc:
        raise UsageError("the base URL must not contain a user name or password: leave them out")
    odd = parts.query or parts.fragment or re.search(r"[^!-~]|%2f|/\.\.?(/|$)", parts.path, re.IGNORECASE)
    if odd or parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host) or port == 0:
        raise UsageError(f"{url!r} is not a base URL: give one like https://api.perstack.ai")
    if parts.scheme == "http" and not is_loopback(host):
        raise UsageError(f"refusing to send the API key over plain http to {host}: use https://{host}")
    netloc = f"[{host}]" if ":" in host else host
    if port not in (None, _DEFAULT_PORTS[parts.scheme]):
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def check_job_id(job_id: str) -> str:
    """The job id as given; raises UsageError unless it fits the API's pattern."""
    if not _JOB_ID.fullmatch(job_id):
        raise UsageError(f"{job_id!r} is not a job id: it has 24 characters, a to z and 0 to 9")
    return job_id


def is_loopback(host: str) -> bool:
    """True if `host` names this machine without asking a name server."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for this server, or None; loopback is never proxied."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    import urllib.request  # late: it loads half of http, for a mount that is not even asked for yet

    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
