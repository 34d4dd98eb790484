"""Redirects, followed by hand: on the same origin only, so that the key never goes anywhere else."""

from __future__ import annotations

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
        return httpx.URL(self._base_url + self._moved.get(call.target, call.target))

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
        self._remember(call, url, there)
        return there

    def _remember(self, call: Call, url: httpx.URL, there: httpx.URL) -> None:
        if "?" in call.target or url.path.rstrip("/") != there.path.rstrip("/"):
            return
        if there.path.startswith(self._prefix + "/"):
            self._moved[call.target] = there.path[len(self._prefix) :]


def refusal(call: Call, status: int, what: str) -> ApiError:
    """The error for a redirect that is not followed: nothing was done, so it is no lost answer either."""
    return mismatch(call._replace(changing=False), what, status)
