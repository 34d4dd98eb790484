"""Settings of a mount: each defined once, given as a flag, as `-o name=value` or in the environment.

What wins: flag, then `-o`, then `JOBFS_…`, then `PERSTACK_…` (wire-facts.md), then the default.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from grp import getgrnam
from pathlib import Path
from pwd import getpwnam
from typing import Annotated, Any, Literal, get_args

import platformdirs
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobfs.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)(b?)", re.IGNORECASE)

#: What fstab and mount(8) pass along that means nothing here.
_NOISE = re.compile(
    "rw|defaults|(no)?auto|(no)?users?|owner|group|nofail|_netdev|(no)?(exec|suid|dev)|a?sync|(no|rel|norel|strict)?atime"
    "|(no)?diratime|(no)?lazytime|silent|loud|comment|x-.*"
)


def parse_size(value: Any) -> int:
    """Bytes from "512MiB", "2G", "1.5 GB" or a plain number; K, M, G, T alone are powers of 1024."""
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("must be a size such as 512MiB, 2GiB or a number of bytes")
    number, prefix, binary, byte = match.groups()
    base = 1000 if byte and not binary else 1024
    return int(float(number) * base ** " kmgt".index(prefix.lower() or " "))


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError("must be a number of seconds")
    return seconds


def _octal(value: Any) -> int:
    text = str(value) if not isinstance(value, int) else oct(value)[2:]
    if not re.fullmatch(r"(0o)?[0-7]{1,4}", text) or int(text.removeprefix("0o"), 8) > 0o777:
        raise ValueError("must be an octal mask from 000 to 777, such as 022")
    return int(text.removeprefix("0o"), 8)


def _user(value: Any) -> int:
    return _number_or_name(value, lambda name: getpwnam(name).pw_uid, "user")


def _group(value: Any) -> int:
    return _number_or_name(value, lambda name: getgrnam(name).gr_gid, "group")


def _number_or_name(value: Any, find: Any, what: str) -> int:
    text = str(value)
    if re.fullmatch(r"\d{1,10}", text) and int(text) < 2**32 - 1:
        return int(text)
    try:
        return int(find(text))
    except (KeyError, ValueError):
        raise ValueError(f"must be the number or name of a {what} of this machine") from None


def _whole(value: Any) -> int:
    if not re.fullmatch(r"\d{1,9}", str(value)):
        raise ValueError("must be a whole number")
    return int(value)


def _flag(value: Any) -> bool:
    word = str(value).lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("must be yes or no")


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
    return Path(os.path.abspath(Path(value).expanduser()))


def _within(low: float, high: float) -> AfterValidator:
    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"must be from {low:g} to {high:g}")
        return value

    return AfterValidator(check)


def _one_of(*words: str) -> BeforeValidator:
    def check(value: Any) -> str:
        if str(value).lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value).lower()

    return BeforeValidator(check)


_Seconds = BeforeValidator(_seconds)
_Flag = Annotated[bool, BeforeValidator(_flag)]
_Directory = Annotated[Path, BeforeValidator(_absolute)]
_LogLevel = Literal["debug", "info", "warning", "error"]
_Encoding = Literal["auto", "multipart", "json"]


def _define(default: Any, help: str, metavar: str = "", env: str = "", **more: Any) -> Any:
    """One setting; `env` names a variable of the vendor's own that is read after ours."""
    if callable(default):
        more["default_factory"] = default
    else:
        more["default"] = default
    if env:
        more["validation_alias"] = AliasChoices(f"JOBFS_{env.partition('_')[2]}", env)
    return Field(description=help, json_schema_extra={"metavar": metavar}, **more)


class Settings(BaseSettings):
    """What a mount is told; frozen. Times in seconds, sizes in bytes. Holds no secret."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="JOBFS_", populate_by_name=True, extra="forbid", env_ignore_empty=True
    )

    base_url: str = _define(
        "https://api.perstack.ai", "Where the API is (https; plain http only to this machine).", "URL",
        env="PERSTACK_BASE_URL",
    )  # fmt: skip
    api_key_file: Annotated[Path | None, BeforeValidator(_absolute)] = _define(
        None, "Read the API key from FILE, again when it changes (else PERSTACK_API_KEY).", "FILE"
    )
    cache_dir: _Directory = _define(
        lambda: platformdirs.user_cache_path("jobfs"), "Where contents are cached.", "DIR"
    )
    state_dir: _Directory = _define(
        lambda: platformdirs.user_state_path("jobfs"), "Where unsent work is kept.", "DIR"
    )
    ttl: Annotated[float, _within(0, 3600), _Seconds] = _define(
        5.0, "Changes made by the job are visible after at most this long.", "SECONDS"
    )
    write_back_delay: Annotated[float, _within(0, 3600), _Seconds] = _define(
        0.5, "Wait this long after a close before sending.", "SECONDS"
    )
    sync_on_close: _Flag = _define(False, "A close returns when the server has the file.")
    read_only: _Flag = _define(False, "Refuse everything that writes; also -o ro.")
    xattr: _Flag = _define(
        False, "Show what the API knows of a file as extended attributes user.jobfs.*; writing gets slower."
    )
    timeout: Annotated[float, _within(0.1, 3600), _Seconds] = _define(
        30.0, "Give up on the server after this long without progress.", "SECONDS"
    )
    stale_if_error: Annotated[float, _within(0, 604800), _Seconds] = _define(
        300.0, "Serve what is known for this long while the server cannot be reached.", "SECONDS"
    )
    request_lifetime: Annotated[float, _within(0, 3600), _Seconds] = _define(
        30.0, "How long a request that lost its connection may still be carried out.", "SECONDS"
    )
    max_connections: Annotated[int, _within(1, 256), BeforeValidator(_whole)] = _define(
        16, "At most this many connections to the server.", "N"
    )
    cache_size: Annotated[int, _within(2**20, 2**60), BeforeValidator(parse_size)] = _define(
        2 * 2**30, "Keep at most this much in the content cache, e.g. 512MiB.  [default: 2GiB]", "SIZE"
    )
    local_only: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_patterns)] = _define(
        (), "Files of such names stay on this machine; may be repeated, or joined with colons.", "PATTERN"
    )
    local_symlinks: _Flag = _define(
        False, "Keep symbolic links on this machine, where the job does not see them."
    )
    umask: Annotated[int, BeforeValidator(_octal)] = _define(
        0o022, "Octal mask taken off the permissions shown.  [default: 022]", "MASK"
    )
    uid: Annotated[int, BeforeValidator(_user)] = _define(
        os.getuid, "Owner of everything in the mount.  [default: you]", "USER"
    )
    gid: Annotated[int, BeforeValidator(_group)] = _define(
        os.getgid, "Group of everything in the mount.  [default: yours]", "GROUP"
    )
    allow_other: _Flag = _define(False, "Let other users of this machine in.")
    allow_core_dumps: _Flag = _define(
        False, "Let a crash leave a core dump, and debuggers attach; the API key is in it."
    )
    log_level: Annotated[_LogLevel, _one_of(*get_args(_LogLevel))] = _define(
        "warning", "How much to log: debug, info, warning or error.", "LEVEL"
    )
    create_encoding: Annotated[_Encoding, _one_of(*get_args(_Encoding))] = _define(
        "auto", "How new files are sent: auto, multipart or json.", "HOW"
    )

    @property
    def kernel_timeout(self) -> float:
        """Seconds the kernel may remember names and attributes: a part of the TTL, which counts it in."""
        return min(1.0, self.ttl / 5)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as the command line shows it."""

    name: str
    help: str
    metavar: str
    is_flag: bool
    multiple: bool
    default: Any

    @property
    def flag(self) -> str:
        """The long option, `--write-back-delay`."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable, `JOBFS_WRITE_BACK_DELAY`."""
        return "JOBFS_" + self.name.upper()


def options() -> list[Option]:
    """Every setting, in order of definition."""
    return [
        Option(
            name=name,
            help=field.description or "",
            metavar=str((field.json_schema_extra or {}).get("metavar", "")),  # type: ignore[union-attr]
            is_flag=field.annotation is bool,
            multiple=name == "local_only",
            default=field.default if field.default_factory is None else None,
        )
        for name, field in Settings.model_fields.items()
    ]


def load(flags: Mapping[str, Any], mount_options: Iterable[str] = ()) -> Settings:
    """Settings from flags (None: not given), `-o` strings and the environment; raises UsageError."""
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    values = {**parse_mount_options(mount_options), **given}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise UsageError(_sentence(error, given, values)) from None


def parse_mount_options(strings: Iterable[str]) -> dict[str, Any]:
    """The settings in `-o a,b=c` strings, the last of a name; raises UsageError for an unknown one."""
    known = {option.name: option for option in options()}
    values: dict[str, Any] = {}
    for name, equals, value in _given(strings):
        key = {"ro": "read_only"}.get(name, name.replace("-", "_"))
        if key not in known:
            raise UsageError(_unknown(name, known))
        if not equals and not known[key].is_flag:
            raise UsageError(f"-o {name} needs a value: -o {name}={known[key].metavar}.")
        if known[key].multiple:
            value = ":".join(filter(None, (values.get(key), value)))
        values[key] = value if equals else True
    return values


def _given(strings: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Name, equals sign and value of each option in `-o` strings, without those that mean nothing here."""
    for part in ",".join(strings).split(","):
        name, equals, value = part.partition("=")
        if part and not _NOISE.fullmatch(name):
            yield name, equals, value


def _unknown(name: str, known: Mapping[str, Option]) -> str:
    if name.replace("-", "_") in ("api_key", "key", "token"):
        return "The API key is never given on the command line: use -o api_key_file=FILE or PERSTACK_API_KEY."
    close = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    return f"Unknown option -o {name[:64]}" + (f": did you mean {close[0]}?" if close else ".")


def _sentence(error: ValidationError, flags: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The first problem in one sentence that names the place where the value was given."""
    problem = error.errors(include_url=False)[0]
    place = str(problem["loc"][0]) if problem["loc"] else ""
    option = next((o for o in options() if place.lower() in (o.name, o.env.lower())), None)
    if option is None:
        where = place
    elif option.name in flags:
        where = option.flag
    elif option.name in values:
        where = f"-o {option.name}"
    else:
        where = place if place.isupper() else option.env
    what = problem["msg"].removeprefix("Value error, ")
    return f"{where} {what}, not {str(problem['input'])[:80]!r}."
