"""Checks before a mount, and the key: each failure is one sentence with its remedy."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn
from unittest.mock import MagicMock

import pytest

from jobfs.cli import preflight
from jobfs.cli.preflight import check_machine, find_key, prepare_mount_point
from jobfs.errors import ContractError, UsageError
from jobfs.settings import Settings, load_settings

from .world import JOB, MountTable

CONTAINER = "in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN"
ALL, BUT_ONE = "000001ffffffffff", "000001ffffdfffff"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"cache_dir": str(tmp_path / "cache"), "state_dir": str(tmp_path / "state")})


@pytest.mark.usefixtures("able")
def test_preflight_returns_the_path_on_a_machine_that_can_mount(
    settings: Settings, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(place)
    assert check_machine(settings, JOB, str(tmp_path / "link"), pytest.fail) == str(place)
    assert list(place.iterdir()) == []
    (place / "mine").touch()
    with pytest.raises(UsageError, match="is not empty: move away what is in it, or give an empty directory"):
        check_machine(settings, JOB, str(place), pytest.fail)


@pytest.mark.parametrize("dead", [False, True])
def test_an_existing_mount_is_reported_and_a_dead_one_removed(
    table: MountTable, place: Path, dead: bool
) -> None:
    """vfs/semantics.md 6: "Transport endpoint is not connected" does not keep the next mount from working."""
    place = place.rename(place.with_name("my mount"))
    said: list[str] = []
    table.add(place, dead=dead)
    with (
        nullcontext()
        if dead
        else pytest.raises(UsageError, match=f"already mounted at .*: run jobfs umount '{place}',")
    ):
        assert prepare_mount_point(str(place), said.append) == str(place)
    assert table.unmounted == [str(place)] * dead
    assert said == [f"the process that served {place} is gone: its dead mount was removed"] * dead


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("name", ["cache_dir", "state_dir"])
def test_state_and_cache_directories_must_be_outside_the_mount(
    settings: Settings, place: Path, name: str, tmp_path: Path
) -> None:
    option = "--" + name.replace("_", "-")
    for inside in (place, place / "below"):
        with pytest.raises(UsageError, match=f"is inside the mount point.*{option}"):
            check_machine(settings.model_copy(update={name: inside}), JOB, str(place), pytest.fail)
    beside = settings.model_copy(update={name: place.with_name(f"{place.name}-cache")})
    assert check_machine(beside, JOB, str(place), pytest.fail) == str(place)
    with pytest.raises(UsageError, match=f"can't write.*{option}"):
        check_machine(settings.model_copy(update={name: Path("/proc/none")}), JOB, str(place), pytest.fail)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("number", "remedy"), [
    (errno.ENOENT, "on a desktop, run sudo modprobe fuse"),
    (errno.EACCES, "this user has no permission: on a desktop, run sudo chmod 666 /dev/fuse, or mount as another user"),
    (errno.EPERM, "a sandbox or a container forbids it"),
])  # fmt: skip
def test_an_unusable_dev_fuse_is_reported_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def refuse(path: Path, flags: int) -> NoReturn:
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(UsageError) as refused:
            preflight.check_device()
    assert str(refused.value) == f"can't open /dev/fuse: {os.strerror(number)}: {remedy}; {CONTAINER}"


def test_a_missing_library_is_reported_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "libfuse-that-is-not-there.so.2")
    for _ in range(2):
        with pytest.raises(UsageError, match="libfuse 2 is missing: install the package libfuse2t64"):
            preflight.pin_libfuse_for_fusepy()


@pytest.mark.parametrize(("user", "helper", "may", "alone", "words"), [
    (0, None, ALL, 1, ""), (1000, "fusermount", ALL, 0, ""),
    (1000, None, ALL, 0, "fusermount is missing: install fuse3"),
    (1000, "fusermount", ALL, 1, "fusermount can't become root here"),
    (0, None, BUT_ONE, 0, f"this process may not mount anything: {CONTAINER}"),
    (1000, "fusermount", BUT_ONE, 0, f"this process may not mount anything: {CONTAINER}"),
])  # fmt: skip
def test_a_user_without_permission_to_mount_gets_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int, helper: str | None, may: str, alone: int, words: str
) -> None:  # fmt: skip
    (tmp_path / "status").write_text(
        f"Name:\tjobfs\nUid:\t1000\t{user}\t0\t0\nCapBnd:\t{may}\nNoNewPrivs:\t{alone}\n"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    if helper:
        (tmp_path / helper).touch(0o755)
    with pytest.raises(UsageError, match=f"^{words}") if words else nullcontext():
        preflight.check_may_mount(tmp_path)


def test_a_job_whose_description_exceeds_the_read_limit_can_be_mounted(settings: Settings) -> None:
    """api/wire.md: the `items` of the instance may be complete; only their number is wanted."""
    client = MagicMock()
    client.__enter__.return_value = client
    client.get_instance.side_effect = ContractError("too large")
    client.list_page.return_value.total = 30
    assert preflight.fetch_item_count(lambda *args, **more: client, settings, JOB, lambda: "key") == 30  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604])
def test_a_key_file_wins_and_one_that_others_can_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    """api/wire.md: PERSTACK_API_KEY."""
    monkeypatch.setenv("PERSTACK_API_KEY", " sk-env\n")
    assert find_key(load_settings({}))() == "sk-env"
    path = tmp_path / "my key"
    path.write_text("sk-file\n")
    path.chmod(mode)
    settings = load_settings({"api_key_file": str(path)})
    assert find_key(settings)() == "sk-file"
    said = f"jobfs: others can read the API key in {path}: run chmod 600 '{path}'\n"
    assert capsys.readouterr().err == ("" if mode == 0o600 else said)
    for given in ("sk-given-by-mistake", "sk-" + 300 * "x", str(tmp_path)):
        with pytest.raises(UsageError, match="--api-key-file is not a file"):
            find_key(load_settings({"api_key_file": given}))
