"""Redirects, followed by hand: on the same origin only, so that the key never goes anywhere else."""

from __future__ import annotations

import functools
from urllib.parse import urlsplit

import httpx

from jobfs.api.failures import Call, mismatch
from jobfs.errors import ApiError

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
