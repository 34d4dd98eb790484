from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from jobfs.errors import ContractError
from jobfs.nodes import Permission

from .conftest import KEY, ROOT, MakeClient, Script, many, one

HERE = "https://api.example.test"
DIRECTORY = one("d", type="workspaceItemDirectory")


def redirect(status: int, location: str) -> httpx.Response:
    return httpx.Response(status, headers={"location": location} if location else {})


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("origin", ["", HERE, f"{HERE}:443"])
def test_a_read_follows_a_redirect_to_the_other_form_of_its_path(
    make_client: MakeClient, status: int, origin: str
) -> None:
    script = Script(redirect(status, f"{origin}{ROOT}items/item00000000000000000001/"), one())
    assert make_client(script).get("item00000000000000000001").path == "a.txt"
    assert script.asked == ["GET items/item00000000000000000001", "GET items/item00000000000000000001/"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_changing_request_is_repeated_whole_at_the_other_form_of_its_path(
    make_client: MakeClient, tmp_path: Path, status: int
) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    script = Script(redirect(status, f"{ROOT}items"), one())
    make_client(script).create_file("a.txt", tmp_path / "x", 5, Permission.READ_WRITE)
    assert script.asked == ["POST items/", "POST items"]
    assert script.bodies[0] == script.bodies[1]
    assert b"hello" in script.bodies[0]


@pytest.mark.parametrize(
    "location",
    [
        f"{ROOT}items/moved",
        "https://evil.example.test/x",
        "https://api.example.test.evil.test/x",
        "http://api.example.test/x",
        "https://api.example.test:8443/x",
        "//evil.example.test/x",
        "https://user@api.example.test/x",
        "https://api.example.test@evil.example.test/x",
        "ftp://api.example.test/x",
        "file:///etc/passwd",
        "",
        "https://[",
        "https://host:port/",
    ],
)
@pytest.mark.parametrize("status", [302, 307])
def test_no_other_redirect_is_followed(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, location: str, status: int
) -> None:
    """vfs/semantics.md 6.11: the key is never sent after a redirect to another origin (5: EIO and a log line)."""
    script = Script(redirect(status, location), one())
    with pytest.raises(ContractError, match=r"a redirect \(30\d\) to"):
        make_client(script).get("item00000000000000000001")
    assert len(script.requests) == 1
    assert "get item" in caplog.text
    assert KEY not in caplog.text


def test_redirects_in_a_circle_end(make_client: MakeClient) -> None:
    """vfs/semantics.md 3: no call can hang for ever."""
    path = f"{ROOT}items/item00000000000000000001"
    script = Script(redirect(307, f"{path}/"), redirect(307, path))
    with pytest.raises(ContractError, match="in a circle"):
        make_client(script).get("item00000000000000000001")
    assert len(script.requests) == 2


@pytest.mark.parametrize("base", ["", "/base"])
def test_the_form_of_a_collection_url_is_remembered(make_client: MakeClient, base: str) -> None:
    moved = redirect(307, f"{base}{ROOT}items?take=5&skip=0")
    client = make_client(
        script := Script(moved, many(total=1), DIRECTORY, many(total=0)), base_url=HERE + base
    )
    client.list_page(5, 0)
    client.create_directory("d", Permission.READ_WRITE)
    client.list_page(5, 5)
    paths = [request.url.path for request in script.requests]
    assert paths == [f"{base}{ROOT}items/", *[f"{base}{ROOT}items"] * 3]


def test_a_server_that_changes_its_mind_about_the_form_is_followed(make_client: MakeClient) -> None:
    script = Script(redirect(307, f"{ROOT}items"), DIRECTORY, redirect(307, f"{ROOT}items/"), DIRECTORY)
    client = make_client(script)
    for _ in range(3):
        client.create_directory("d", Permission.READ_WRITE)
    assert script.asked == ["POST items/", "POST items", "POST items", "POST items/", "POST items/"]


def test_each_collection_has_a_form_of_its_own(make_client: MakeClient) -> None:
    script = Script(
        redirect(301, ROOT.removesuffix("/")),
        httpx.Response(200, json={"data": {"workspaceInstance": {}}}),
        DIRECTORY,
    )
    client = make_client(script)
    client.instance()
    client.create_directory("d", Permission.READ_WRITE)
    assert script.asked[2:] == ["POST items/"]
