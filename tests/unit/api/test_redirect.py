from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from jobfs.errors import ContractError
from jobfs.nodes import Permission

from .conftest import ID, KEY, ROOT, MakeClient, Script, many, one

HERE = "https://api.example.test"
DIRECTORY = one("d", type="workspaceItemDirectory")


def redirect(status: int, location: str) -> httpx.Response:
    return httpx.Response(status, headers={"location": location} if location else {})


@pytest.mark.parametrize(("status", "origin"), [(301, ""), (302, HERE), (307, f"{HERE}:443"), (308, "")])
def test_a_redirect_to_the_other_form_of_a_path_is_followed_with_all_that_was_sent(
    make_client: MakeClient, tmp_path: Path, status: int, origin: str
) -> None:
    script = Script(redirect(status, f"{origin}{ROOT}items/{ID}/"), one())
    assert make_client(script).get(ID).path == "a.txt"
    assert script.asked == [f"GET items/{ID}", f"GET items/{ID}/"]
    (tmp_path / "x").write_bytes(b"hello")
    script = Script(redirect(status, f"{origin}{ROOT}items"), one())
    make_client(script).create_file("a.txt", tmp_path / "x", 5, Permission.READ_WRITE)
    assert script.asked == ["POST items/", "POST items"]
    assert script.bodies[0] == script.bodies[1]
    assert b"hello" in script.bodies[0]


@pytest.mark.parametrize(
    "location",
    [
        f"{ROOT}items/moved",
        f"https://evil.example.test{ROOT}items/{ID}/",
        f"https://api.example.test.evil.test{ROOT}items/{ID}/",
        f"http://api.example.test{ROOT}items/{ID}/",
        f"https://api.example.test:8443{ROOT}items/{ID}/",
        f"//evil.example.test{ROOT}items/{ID}/",
        f"https://user@api.example.test{ROOT}items/{ID}/",
        "file:///etc/passwd",
        "",
        "https://[",
        "https://host:port/",
    ],
)
def test_no_other_redirect_is_followed(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, location: str
) -> None:
    """vfs/semantics.md 6.11: the key is never sent after a redirect to another origin (5: EIO and a log line)."""
    script = Script(redirect(307, location), one())
    with pytest.raises(ContractError, match=r"a redirect \(307\) to"):
        make_client(script).get(ID)
    assert len(script.requests) == 1
    assert "get item" in caplog.text
    assert KEY not in caplog.text


def test_redirects_in_a_circle_end(make_client: MakeClient) -> None:
    """vfs/semantics.md 3: no call can hang for ever."""
    script = Script(redirect(307, f"{ROOT}items/{ID}/"), redirect(307, f"{ROOT}items/{ID}"))
    with pytest.raises(ContractError, match="in a circle"):
        make_client(script).get(ID)
    assert len(script.requests) == 2


def test_the_form_of_collection_urls_is_remembered_until_the_server_changes_its_mind(
    make_client: MakeClient,
) -> None:
    base = "/base"
    script = Script(
        redirect(307, f"{base}{ROOT}items?take=5&skip=0"), many(total=1), DIRECTORY,
        redirect(307, f"{base}{ROOT}items/"), DIRECTORY, DIRECTORY,
    )  # fmt: skip
    client = make_client(script, base_url=HERE + base)
    client.list_page(5, 0)
    for _ in range(3):
        client.create_directory("d", Permission.READ_WRITE)
    paths = [request.url.path.removeprefix(base + ROOT) for request in script.requests]
    assert paths == ["items/", "items", "items", "items", "items/", "items/"]
