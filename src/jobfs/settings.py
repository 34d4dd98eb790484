"""The settings of a mount, and what their values may be; options.py names them. Given as a flag, by `-o`, in the environment.

What wins: flag, then `-o`, then `JOBFS_…`, then `PERSTACK_…` (api/wire.md), then the default.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from grp import getgrnam
from pathlib import Path
from pwd import getpwnam
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from jobfs.errors import UsageError
from jobfs.options import OPTIONS, Option

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)(b?)", re.IGNORECASE)

#: What fstab and mount(8) pass along that means nothing here, or goes without saying: nosuid, nodev, default_permissions.
_NOISE = re.compile(
    "rw|defaults|(no)?auto|(no)?users?|owner|group|nofail|_netdev|(no)?(suid|dev)|a?sync|dirsync|(no|rel|norel|strict)?atime"
    "|(no)?diratime|(no)?lazytime|(no)?iversion|(no)?mand|silent|loud|comment|default_permissions|[xX]-.*"
)

#: What mount(8) calls some settings.
_WORDS = {"ro": {"read_only": True}, "exec": {"noexec": False}}


def parse_size(value: Any) -> int:
    """Bytes from "512MiB", "2G", "1.5 GB" or a plain number; K, M, G, T alone are powers of 1024."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("must be a size such as 512MiB, 2GiB or a number of bytes")
    number, prefix, binary, byte = match.groups()
    base = 1000 if byte and not binary else 1024
    return int(float(number) * base ** " kmgt".index(prefix.lower() or " "))


def _octal(value: Any) -> int:
    text = str(value) if not isinstance(value, int) else oct(value)[2:]
    if not re.fullmatch(r"(0o)?[0-7]{1,4}", text) or int(text.removeprefix("0o"), 8) > 0o777:
        raise ValueError("must be an octal mask from 000 to 777, such as 022")
    return int(text.removeprefix("0o"), 8)


def _number_or_name(value: Any, find: Callable[[str], int], what: str) -> int:
    text = str(value)
    if re.fullmatch(r"\d{1,10}", text) and int(text) < 2**32 - 1:
        return int(text)
    try:
        return find(text)
    except (KeyError, ValueError):
        raise ValueError(f"must be the number or name of a {what} of this machine") from None


def _patterns(value: Any) -> tuple[str, ...]:
    """Patterns match the last component, which has no "/" and hence nothing is lost by splitting at ":"."""
    parts = value.split(":") if isinstance(value, str) else [p for v in value for p in str(v).split(":")]
    if any("/" in part for part in parts):
        raise ValueError("must be patterns of a file name, without a slash")
    return tuple(part for part in parts if part)


def _absolute(value: Any) -> Path | None:
    if value is None:
        return None
    if not str(value):
        raise ValueError("must be a path")
    try:
        return Path(os.path.abspath(Path(value).expanduser()))
    except RuntimeError:
        raise ValueError("names a home directory that is not known") from None


def _lower(value: Any) -> str:
    return str(value).lower()


_Seconds = Annotated[float, Field(allow_inf_nan=False)]
_User = Annotated[
    int, BeforeValidator(lambda value: _number_or_name(value, lambda name: getpwnam(name).pw_uid, "user"))
]
_Group = Annotated[
    int, BeforeValidator(lambda value: _number_or_name(value, lambda name: getgrnam(name).gr_gid, "group"))
]
_Directory = Annotated[Path, BeforeValidator(_absolute)]
_LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
_LogFormat = Annotated[Literal["text", "json"], BeforeValidator(_lower)]
_Encoding = Annotated[Literal["auto", "multipart", "json"], BeforeValidator(_lower)]


def _define(name: str, default: Callable[[], Any] | None = None) -> Any:
    """The setting of this name in options.py."""
    return Field(default_factory=default) if default is not None else Field(OPTIONS[name].default)


class Settings(BaseModel):
    """What a mount is told; frozen. Times in seconds, sizes in bytes. Holds no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = _define("base_url")
    api_key_file: Annotated[Path | None, BeforeValidator(_absolute)] = _define("api_key_file")
    cache_dir: _Directory = _define("cache_dir", lambda: platformdirs.user_cache_path("jobfs"))
    state_dir: _Directory = _define("state_dir", lambda: platformdirs.user_state_path("jobfs"))
    ttl: Annotated[_Seconds, Field(ge=0, le=3600)] = _define("ttl")
    write_back_delay: Annotated[_Seconds, Field(ge=0, le=3600)] = _define("write_back_delay")
    sync_on_close: bool = _define("sync_on_close")
    read_only: bool = _define("read_only")
    timeout: Annotated[_Seconds, Field(ge=0.1, le=3600)] = _define("timeout")
    stale_if_error: Annotated[_Seconds, Field(ge=0, le=604800)] = _define("stale_if_error")
    request_lifetime: Annotated[_Seconds, Field(ge=0, le=3600)] = _define("request_lifetime")
    max_connections: Annotated[int, Field(ge=1, le=256)] = _define("max_connections")
    cache_size: Annotated[int, Field(ge=2**20, le=2**60), BeforeValidator(parse_size)] = _define("cache_size")
    local_only: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = _define("local_only")
    local_symlinks: bool = _define("local_symlinks")
    umask: Annotated[int, BeforeValidator(_octal)] = _define("umask")
    uid: _User = _define("uid", os.getuid)
    gid: _Group = _define("gid", os.getgid)
    allow_other: bool = _define("allow_other")
    noexec: bool = _define("noexec")
    allow_core_dumps: bool = _define("allow_core_dumps")
    log_level: _LogLevel = _define("log_level")
    log_format: _LogFormat = _define("log_format")
    create_encoding: _Encoding = _define("create_encoding")

    @property
    def kernel_timeout(self) -> float:
        """Seconds the kernel may remember names and attributes: a part of the TTL, which counts it in."""
        return min(1.0, self.ttl / 5)


def load(flags: Mapping[str, Any], mount_options: Iterable[str] = ()) -> Settings:
    """Settings from flags (None: not given), `-o` strings and the environment; raises UsageError."""
    places: dict[str, str] = {}
    values: dict[str, Any] = {}

    def take(found: Mapping[str, Any], place: Callable[[Option], str]) -> None:
        values.update(found)
        places.update({name: place(OPTIONS[name]) for name in found})

    variables = {name: os.environ.get(option.env) for name, option in OPTIONS.items()}
    take(_given({"base_url": os.environ.get("PERSTACK_BASE_URL")}), lambda option: "PERSTACK_BASE_URL")
    take(_given(variables), lambda option: option.env)
    take(parse_mount_options(mount_options), lambda option: f"-o {option.name}")
    take(
        {name: value for name, value in flags.items() if value not in (None, ())}, lambda option: option.flag
    )
    try:
        return Settings(**values)
    except ValidationError as error:
        raise UsageError(_sentence(error, places)) from None
    except RuntimeError:  # platformdirs: neither HOME nor the system's list of users names one
        raise UsageError(
            "this user has no home directory: set HOME, or give --state-dir and --cache-dir"
        ) from None


def parse_mount_options(strings: Iterable[str]) -> dict[str, Any]:
    """The settings in `-o a,b=c` strings, the last of a name; raises UsageError for an unknown one."""
    parts = [part for string in strings for part in string.split(",") if part]
    if "remount" in parts:
        # mount(8) gives with it what the kernel shows of the mount, which are no settings.
        raise UsageError(
            "A mount can't be changed: jobfs umount DIR, and mount it again with what is wanted."
        )
    values: dict[str, Any] = {}
    for part in parts:
        if part in _WORDS:
            values |= _WORDS[part]
        elif not _NOISE.fullmatch(part.partition("=")[0]):
            _take(part, values)
    return values


def _take(part: str, values: dict[str, Any]) -> None:
    """Put one setting of an `-o` string into `values`; raises UsageError."""
    name, equals, value = part.partition("=")
    key = name.replace("-", "_")
    if key not in OPTIONS:
        raise UsageError(_unknown(name))
    if not equals and not OPTIONS[key].is_flag:
        raise UsageError(f"-o {name} needs a value: -o {name}={OPTIONS[key].metavar}.")
    if OPTIONS[key].multiple:
        value = ":".join(filter(None, (values.get(key), value)))
    values[key] = value if equals else True


def _unknown(name: str) -> str:
    if name.replace("-", "_") in ("api_key", "key", "token"):
        return "The API key is never given on the command line: use -o api_key_file=FILE or PERSTACK_API_KEY."
    close = difflib.get_close_matches(name.replace("-", "_"), OPTIONS, 1)
    return f"Unknown option -o {name[:64]}" + (f": did you mean {close[0]}?" if close else ".")


def _given(variables: Mapping[str, str | None]) -> dict[str, str]:
    """Those of these variables of the environment that say anything."""
    return {name: value for name, value in variables.items() if value}


def _sentence(error: ValidationError, places: Mapping[str, str]) -> str:
    """The first problem in one sentence that names the place where the value was given."""
    problem = error.errors(include_url=False)[0]
    what = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    where = places[str(problem["loc"][0])]
    return f"{where} {what.partition(', unable')[0]}, not {str(problem['input'])[:80]!r}."
