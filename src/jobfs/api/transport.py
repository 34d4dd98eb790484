"""Where the server is and how it is reached: checks of base URL, job id and item ids; proxy and connection pool (HTTP/1.1,
TLS verified, sockets that notice a dead peer); and redirects, followed by hand on the same origin only, so that the key never
goes anywhere else.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
import ssl
import urllib.request
from urllib.parse import SplitResult, urlsplit

import httpx

from jobfs.api.failures import Call, mismatch
from jobfs.errors import ApiError, InvalidRequestError, UsageError

_JOB_ID = re.compile(r"[a-z0-9]{24}")
_ITEM_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_HOST = re.compile(r"[A-Za-z0-9_.:-]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_base_url(url: str) -> str:
    """The base URL in its normal form: lower-case scheme and host, no default port, no trailing slash.

    Plain http is taken for a loopback host only (wire-facts.md, authentication).
    Raises UsageError for anything a key must not be sent to, or that is no base URL.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError("the base URL is not a valid URL: give one like https://api.perstack.ai") from None
    if "@" in parts.netloc:
        raise UsageError("the base URL must not contain a user name or password: leave them out")
    if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host) or port == 0:
        raise UsageError(f"{url!r} is not a base URL: give one like https://api.perstack.ai")
    _check_rest(url, parts, host)
    netloc = f"[{host}]" if ":" in host else host
    if port not in (None, _DEFAULT_PORTS[parts.scheme]):
        netloc += f":{port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def _check_rest(url: str, parts: SplitResult, host: str) -> None:
    """Raises UsageError for what comes after the host and can't be there, and for a host that must not be given the key."""
    if parts.query or parts.fragment:
        raise UsageError(f"the base URL {url!r} must not have a query: leave out what follows ? or #")
    if re.search(r"[^!-~]|%2f|/\.\.?(/|$)", parts.path, re.IGNORECASE):
        raise UsageError(f"the path of the base URL {url!r} is malformed: correct it")
    if parts.scheme == "http" and not is_loopback(host):
        raise UsageError(f"refusing to send the API key over plain http to {host}: use https://{host}")


def check_job_id(job_id: str) -> str:
    """The job id as given; raises UsageError unless it fits the API's pattern."""
    if not _JOB_ID.fullmatch(job_id):
        raise UsageError(f"{job_id!r} is not a job id: it has 24 characters, a to z and 0 to 9")
    return job_id


def valid_item_id(item_id: object) -> bool:
    """True if `item_id` can stand in a URL as it is; wider than the reference's pattern, never a path."""
    return isinstance(item_id, str) and _ITEM_ID.fullmatch(item_id) is not None


def check_item_id(item_id: str) -> str:
    """The item id as given; raises InvalidRequestError if it could not be one."""
    if not valid_item_id(item_id):
        raise InvalidRequestError(f"{item_id!r} is not an item id")
    return item_id


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
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEP_METHOD = frozenset({307, 308})


class Redirects:
    """Where requests are led, and if this server has collection URLs with or without the slash."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._prefix = urlsplit(base_url).path
        self._moved: dict[str, str] = {}

    def start(self, call: Call) -> httpx.URL:
        """The URL to send this call to."""
        path, mark, query = call.target.partition("?")
        return _parsed(self._base_url + self._moved.get(path, path) + mark + query)

    def follow(self, call: Call, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        """Where the redirect `response`, met at `url`, leads; raises ContractError if it is not followed."""
        status = response.status_code
        told = f"a redirect ({status})"
        if call.changing and status not in _KEEP_METHOD:
            raise refusal(call, status, f"{told} that does not keep the method")
        location = response.headers.get("location", "")
        if not location:
            raise refusal(call, status, f"{told} that leads nowhere")
        try:
            there = url.join(location).copy_with(fragment=None)
        except (httpx.InvalidURL, ValueError):
            raise refusal(call, status, f"{told} to something that is no URL") from None
        if (there.scheme, there.host, there.port) != (url.scheme, url.host, url.port) or there.userinfo:
            raise refusal(call, status, f"{told} to another origin, {there.scheme}://{there.host}")
        if url.path.rstrip("/") == there.path.rstrip("/"):
            self._remember(call, url, there)
            if url.query and not there.query:
                there = there.copy_with(query=url.query)
        return there

    def _remember(self, call: Call, url: httpx.URL, there: httpx.URL) -> None:
        path = call.target.partition("?")[0]
        here, new = (_path(each) for each in (url, there))
        if path.endswith("/") and here.rstrip("/") == (self._prefix + path).rstrip("/"):
            self._moved[path] = new[len(self._prefix) :]


def _path(url: httpx.URL) -> str:
    return url.raw_path.decode("ascii").partition("?")[0]


@functools.lru_cache(maxsize=1024)
def _parsed(url: str) -> httpx.URL:
    # Parsing is a tenth of a small request's cost, and the same pages and paths are asked for repeatedly.
    return httpx.URL(url)


def refusal(call: Call, status: int, what: str) -> ApiError:
    """The error for a redirect that is not followed: nothing was done, so it is no lost answer either."""
    return mismatch(call._replace(changing=False), what, status)


#: Seconds that an idle connection is kept; one that the server closed is noticed before it is used again.
KEEPALIVE = 60.0


def pool(base_url: str, timeout: float, max_connections: int) -> httpx.HTTPTransport:
    """One pool for one server; raises UsageError for an unusable proxy or certificates in the environment."""
    try:
        return httpx.HTTPTransport(
            verify=_ssl_context(),
            trust_env=False,
            limits=httpx.Limits(
                max_connections=max_connections,
                max_keepalive_connections=max_connections,
                keepalive_expiry=KEEPALIVE,
            ),
            proxy=proxy_for(base_url),
            socket_options=_socket_options(timeout),
        )
    except (ImportError, ValueError, httpx.InvalidURL):
        raise UsageError(
            "the proxy named by the environment can't be used: correct HTTPS_PROXY or unset it"
        ) from None


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    # Building one costs several milliseconds, so all clients of the process share it.
    try:
        return httpx.create_ssl_context()
    except OSError:
        raise UsageError("the certificates named by SSL_CERT_FILE or SSL_CERT_DIR can't be read") from None


def _socket_options(timeout: float) -> list[tuple[int, int, int]]:
    # After a suspend or behind a forgetful router a connection can be dead without a word. The kernel then
    # reports it in two thirds of the deadline, so that a read can still be retried on a new one.
    part = max(1, int(timeout * 2 / 3))
    return [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, part),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, part // 3)),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, part * 1000),
    ]
