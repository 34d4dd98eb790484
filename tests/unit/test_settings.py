"""Settings: one definition for flag, environment and -o."""

from __future__ import annotations

import shlex
from pathlib import Path
from unittest.mock import Mock

import pytest

from jobfs.errors import UsageError
from jobfs.settings import (
    OPTIONS,
    describe_unknown_variables,
    format_size,
    is_switch,
    load_settings,
    parse_mount_options,
    parse_size,
    shell_command,
)


def test_precedence_is_flag_then_o_option_then_jobfs_then_perstack(monkeypatch: pytest.MonkeyPatch) -> None:
    option, flag = ["base_url=https://option"], {"base_url": "https://flag"}
    monkeypatch.setenv("PERSTACK_BASE_URL", "https://perstack")
    for set_here, expected in (("", "https://perstack"), ("https://jobfs", "https://jobfs")):
        monkeypatch.setenv("JOBFS_BASE_URL", set_here)
        assert load_settings({}).base_url == expected
    assert [load_settings({}, option).base_url, load_settings(flag, option).base_url] == [
        "https://option",
        "https://flag",
    ]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_setting_has_a_flag_a_variable_and_an_option(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {
        "umask": "027", "log_level": "debug", "log_format": "json", "create_encoding": "json", "cache_size": "1GiB",
    }  # fmt: skip
    text = "yes" if is_switch(name) else named.get(name, "7")
    unset = getattr(load_settings({}), name)
    by_flag = getattr(load_settings({name: (text,) if name == "local_only" else text}), name)
    by_option = getattr(load_settings({}, [f"{name}={text}"]), name)
    by_dashes = getattr(load_settings({}, [f"{name.replace('_', '-')}={text}"]), name)
    monkeypatch.setenv(f"JOBFS_{name.upper()}", text)
    assert unset != by_flag == by_option == by_dashes == getattr(load_settings({}), name)


def test_the_kernels_timeout_is_a_part_of_the_ttl() -> None:
    """vfs/semantics.md 1.5: the TTL is the one promise about staleness, kernel timeouts included."""
    for ttl, timeout in ((5, 1.0), (60, 1.0), (0.5, pytest.approx(0.1)), (0, 0.0)):
        assert load_settings({"ttl": ttl}).kernel_timeout == timeout


@pytest.mark.parametrize(
    ("text", "number"),
    [("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), ("10kb", 10000), ("4096", 4096), ("0", 0), ("1023", 1023), ("8EiB", 2**63)],
)  # fmt: skip
def test_sizes_have_units_and_printed_sizes_can_be_entered(text: str, number: int) -> None:
    assert parse_size(text) == number
    assert parse_size(format_size(number)) == pytest.approx(number, rel=0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttl", "soon"), ("ttl", "-1"), ("ttl", "nan"), ("ttl", "inf"), ("ttl", "1e9"), ("timeout", "0"),
        ("umask", "8"), ("umask", "1777"), ("umask", "-1"), ("uid", "no-such-user"), ("uid", "-1"),
        ("gid", "4294967295"), ("max_connections", "0"), ("max_connections", "1.5"), ("cache_size", "1"),
        ("cache_size", "1XB"), ("cache_size", "-1"), ("log_level", "loud"), ("create_encoding", "xml"), ("read_only", "perhaps"),
        ("local_only", "a/b"), ("cache_dir", ""),
    ],
)  # fmt: skip
def test_a_bad_value_is_reported_with_its_source(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, variable = "--" + name.replace("_", "-"), f"JOBFS_{name.upper()}"
    places: list[tuple[str, dict[str, str], list[str]]] = [(flag, {name: value}, [])]
    if value:
        places += [(f"-o {name}", {}, [f"{name}={value}"]), (variable, {}, [])]
    for place, flags, mount_options in places:
        if place == variable:
            monkeypatch.setenv(variable, value)
        with pytest.raises(UsageError, match=rf"\A{place} must be.*\Z"):
            load_settings(flags, mount_options)


def test_fstab_options_are_ignored_except_ro_and_the_last_value_wins() -> None:
    noise = "rw,noauto,user,nofail,_netdev,suid,dev,nosuid,nodev,x-systemd.automount,X-mount.mkdir,defaults,noatime"
    assert parse_mount_options([f"{noise},ro", "ttl=1,ttl=2", "ttl=3"]) == {"read_only": True, "ttl": "3"}
    assert load_settings({}, ["local_only=*.tmp,local_only=*.bak:core"]).local_only == (
        "*.tmp",
        "*.bak",
        "core",
    )


@pytest.mark.parametrize(
    ("flags", "option", "expected"),
    [
        ({}, "tttl=3", r"Unknown option -o tttl: did you mean ttl\?"),
        ({}, "z" * 10_000, r"Unknown option -o z{64}\."),
        ({}, "ttl", "-o ttl needs a value: -o ttl=SECONDS."),
        ({"ttl": "x" * 10_000}, "", r"--ttl .{1,150}"),  # not repeated at length
        ({"cache_size": "7"}, "", "--cache-size must be greater than or equal to 1MiB, not '7'."),
    ],
)
def test_a_wrong_value_is_reported_with_the_valid_ones(
    flags: dict[str, str], option: str, expected: str
) -> None:
    with pytest.raises(UsageError, match=f"^{expected}$"):
        load_settings(flags, [option])


def test_an_unknown_variable_is_reported_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOBFS_TLL", "JOBFS_TTL", "JOBFS_1234"):
        monkeypatch.setenv(name, "3")
    expected = ["JOBFS_1234 is not a setting.", "JOBFS_TLL is not a setting: did you mean JOBFS_TTL?"]
    assert list(describe_unknown_variables()) == expected


def test_a_key_as_an_o_option_is_refused_and_not_repeated() -> None:
    """vfs/semantics.md 6.9: the API key is never on the command line."""
    for name in ("api-key", "key", "token"):
        with pytest.raises(UsageError, match="api_key_file") as caught:
            load_settings({}, [f"{name}=a-secret"])
        assert "a-secret" not in str(caught.value)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home directory."""
    monkeypatch.setattr("jobfs.settings.user_state_path", Mock(side_effect=RuntimeError("no home directory")))


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_the_error_asks_for_state_dir() -> None:
    with pytest.raises(UsageError, match="set HOME, or give --state-dir"):
        load_settings({})


def test_paths_are_absolute_and_users_have_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"cache_dir": "~/cache", "state_dir": "state", "api_key_file": "key"})
    found = settings.cache_dir, settings.state_dir, settings.api_key_file
    assert found == (tmp_path / "cache", tmp_path / "state", tmp_path / "key")
    settings = load_settings({"uid": "root", "gid": "root"})
    assert (settings.uid, settings.gid) == (0, 0)


def test_a_printed_command_includes_the_settings_that_are_not_defaults() -> None:
    """vfs/semantics.md 6.18: and nothing else; a shell reads it as it was meant."""
    assert load_settings({}).recovery_command("job") == "jobfs recover job"
    given = {
        "base_url": "http://127.0.0.1:1",
        "state_dir": "/a b/$(c)",
        "api_key_file": "/it's/key",
        "ttl": 1,
    }
    assert shlex.split(load_settings(given).recovery_command("job")) == [
        "jobfs", "recover", "job", "--base-url", "http://127.0.0.1:1", "--state-dir", "/a b/$(c)", "--api-key-file", "/it's/key",
    ]  # fmt: skip
    assert shell_command("umount", "/a b", state_dir=load_settings({}).state_dir) == "jobfs umount '/a b'"


@pytest.mark.usefixtures("homeless")
def test_a_printed_command_includes_a_directory_without_a_default() -> None:
    """vfs/semantics.md 6.18: without a home directory every --state-dir is needed."""
    assert shell_command("recover", "job", state_dir="/s") == "jobfs recover job --state-dir /s"
