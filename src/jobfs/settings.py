"""The settings of a mount: one table, from which the flags, `-o` options, variables, help and man page are made.

A setting is taken from the first of these that gives it: flag, `-o`, `JOBFS_…`, `PERSTACK_…` (api/wire.md), the default.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from grp import getgrnam
from pathlib import Path
from pwd import getpwnam
from typing import Annotated, Any, Literal

from platformdirs import user_cache_path, user_state_path
from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from jobfs.errors import UsageError
from jobfs.names import quote_for_shell

#: Options of fstab and mount(8) that are ignored: they have no effect on a mount, or are always on, as nosuid is.
_NOISE = re.compile(
    "rw|defaults|(no)?auto|(no)?users?|owner|group|nofail|_netdev|(no)?(suid|dev)|a?sync|dirsync|(no|rel|norel|strict)?atime"
    "|(no)?diratime|(no)?lazytime|(no)?iversion|(no)?mand|silent|loud|comment|default_permissions|[xX]-.*"
)

#: The options of mount(8) that stand for settings of another name.
_WORDS = {"ro": {"read_only": True}, "exec": {"noexec": False}}


def parse_size(value: Any) -> int:
    """Return the bytes that "512MiB", "2GB", "1.5 GiB" or a plain number stand for. Raises ValueError."""
    try:
        return TypeAdapter(ByteSize).validate_python(value)
    except ValidationError:
        raise ValueError("must be a size such as 512MiB, 2GiB or a number of bytes") from None


def format_size(number: int) -> str:
    """Format a number of bytes as a user types it: `512MiB`, `1.5GiB`, `17B`."""
    unit = min((max(number, 1).bit_length() - 1) // 10, 6)
    return f"{number / 1024**unit:.1f}".removesuffix(".0") + ("KMGTPE"[unit - 1] + "iB" if unit else "B")


def _parse_octal(value: Any) -> int:
    text = str(value)
    if not re.fullmatch(r"(0o)?0*[0-7]{1,3}", text):
        raise ValueError("must be an octal mask from 000 to 777, such as 022")
    return int(text.removeprefix("0o"), 8)


def _parse_id(value: Any, find: Callable[[str], Any], kind: str) -> int:
    text = str(value)
    if re.fullmatch(r"\d{1,10}", text) and int(text) < 2**32 - 1:
        return int(text)
    try:
        return int(find(text)[2])  # pw_uid, gr_gid
    except (KeyError, ValueError):
        raise ValueError(f"must be the number or name of a {kind} of this machine") from None


def _parse_patterns(value: Any) -> tuple[str, ...]:
    """Return the patterns in a value, split at colons. Raises ValueError for one with a slash: they match last components."""
    parts = value.split(":") if isinstance(value, str) else [p for v in value for p in str(v).split(":")]
    if any("/" in part for part in parts):
        raise ValueError("must be patterns of a file name, without a slash")
    return tuple(part for part in parts if part)


def _make_absolute(value: Any) -> Path | None:
    if value is None:
        return None
    if not str(value):
        raise ValueError("must be a path")
    try:
        return Path(os.path.abspath(Path(value).expanduser()))
    except RuntimeError:
        raise ValueError("names an unknown home directory") from None


_Seconds = Annotated[float, Field(allow_inf_nan=False, title="SECONDS")]
_File = Annotated[Path | None, BeforeValidator(_make_absolute), Field(title="FILE")]
_Directory = Annotated[Path, BeforeValidator(_make_absolute), Field(title="DIR")]
_Size = Annotated[int, BeforeValidator(parse_size), Field(title="SIZE")]
_Patterns = Annotated[tuple[str, ...], BeforeValidator(_parse_patterns), Field(title="PATTERN")]
_Mask = Annotated[int, BeforeValidator(_parse_octal), Field(title="MASK")]
_User = Annotated[int, BeforeValidator(lambda value: _parse_id(value, getpwnam, "user")), Field(title="USER")]
_Group = Annotated[
    int, BeforeValidator(lambda value: _parse_id(value, getgrnam, "group")), Field(title="GROUP")
]
_LogLevel = Annotated[Literal["debug", "info", "warning", "error"], Field(title="LEVEL")]
_LogFormat = Annotated[Literal["text", "json"], Field(title="HOW")]
_Encoding = Annotated[Literal["auto", "multipart", "json"], Field(title="HOW")]


def _setting(help: str, default: Any = PydanticUndefined, **more: Any) -> Any:
    """Declare a setting by its help and default; `more`: `default_factory`, bounds, and the `title` of its value in the help."""
    return Field(default, description=help, **more)


class Settings(BaseModel):
    """The settings of a mount, in the order of the help. Times in seconds, sizes in bytes. They hold no secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    base_url: str = _setting("URL of the API.", "https://api.perstack.ai", title="URL")
    api_key_file: _File = _setting("Read the API key from FILE (else PERSTACK_API_KEY).", None)
    cache_dir: _Directory = _setting(
        "Where contents are cached.", default_factory=lambda: user_cache_path("jobfs")
    )
    state_dir: _Directory = _setting(
        "Where unsent work is kept.", default_factory=lambda: user_state_path("jobfs")
    )
    ttl: _Seconds = _setting("Show the job's changes within this time.", 5.0, ge=0, le=3600)
    write_back_delay: _Seconds = _setting(
        "Send a file this long after its close, sooner if many wait.", 0.5, ge=0, le=3600
    )
    sync_on_close: bool = _setting("A close returns when the server has the file.", False)
    no_watch: bool = _setting("Send no inotify events for the job's changes.", False)
    read_only: bool = _setting("Refuse every write; also -o ro.", False)
    timeout: _Seconds = _setting("Fail after this long without progress.", 30.0, ge=0.1, le=3600)
    stale_if_error: _Seconds = _setting(
        "Serve known names and contents for this long while the server can't be reached.",
        300.0,
        ge=0,
        le=604800,
    )
    request_lifetime: _Seconds = _setting(
        "How long the server may still carry out a request that lost its connection.", 30.0, ge=0, le=3600
    )
    max_connections: int = _setting(
        "At most this many connections to the server.", 16, ge=1, le=256, title="N"
    )
    cache_size: _Size = _setting("Cache at most this much, e.g. 512MiB.", "2GiB", ge=2**20, le=2**60)
    keep_saves: int = _setting(
        "Keep the last save of this many files for jobfs restore; 0 keeps none.",
        1000,
        ge=0,
        le=100_000,
        title="N",
    )
    local_only: _Patterns = _setting(
        "Files whose names match stay on this machine; may be repeated, or joined with colons.", ()
    )
    local_symlinks: bool = _setting(
        "Keep symbolic links on this machine, where the job does not see them.", False
    )
    umask: _Mask = _setting("Octal mask removed from the permissions shown.", "022")
    uid: _User = _setting("Owner of everything in the mount (else you).", default_factory=os.getuid)
    gid: _Group = _setting("Group of everything in the mount (else yours).", default_factory=os.getgid)
    allow_other: bool = _setting("Let other users of this machine use the mount.", False)
    noexec: bool = _setting("Don't let programs in the mount run.", False)
    allow_core_dumps: bool = _setting("Allow debuggers, and core dumps, which contain the API key.", False)
    log_level: _LogLevel = _setting("How much to log: debug, info, warning or error.", "warning")
    log_format: _LogFormat = _setting("How to log: text, or json (one object per line).", "text")
    create_encoding: _Encoding = _setting("How new files are sent: auto, multipart or json.", "auto")

    @property
    def kernel_timeout(self) -> float:
        """How long the kernel may cache names and attributes, in seconds; this is a part of the TTL."""
        return min(1.0, self.ttl / 5)

    def recovery_command(self, job: str) -> str:
        """Return the command that sends what ended mounts of a job have left, for a mount with these settings."""
        return shell_command(
            "recover", job, base_url=self.base_url, state_dir=self.state_dir, api_key_file=self.api_key_file
        )


#: All settings, by name.
OPTIONS = Settings.model_fields


def flag_of(name: str) -> str:
    """Return the long option of a setting, such as `--write-back-delay`."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Return the environment variable of a setting, such as `JOBFS_WRITE_BACK_DELAY`."""
    return "JOBFS_" + name.upper()


def shell_command(*words: str, **settings: object) -> str:
    """Return a `jobfs` command that can be pasted into a shell, with those `settings` that are not the default.

    See vfs/semantics.md 6.16, 6.18.
    """
    options = (
        word
        for name, value in settings.items()
        if value and str(value) != str(_default_of(name))
        for word in (flag_of(name), str(value))
    )
    return " ".join(map(quote_for_shell, ("jobfs", *words, *options)))


def _default_of(name: str) -> object:
    """Return the default of a setting, None if this user has none."""
    try:
        default = OPTIONS[name].get_default(call_default_factory=True)
    except RuntimeError:  # this user has no home directory
        return None
    return _make_absolute(default) if isinstance(default, Path) else default


def is_switch(name: str) -> bool:
    """Return whether a setting takes no value."""
    return OPTIONS[name].annotation is bool


def load_settings(flags: Mapping[str, Any], mount_options: Iterable[str] = ()) -> Settings:
    """Return the settings from flags (None: not given), `-o` strings and the environment. Raises UsageError."""
    places: dict[str, str] = {}
    values: dict[str, Any] = {}

    def take(found: Mapping[str, Any], place: Callable[[str], str]) -> None:
        given = {name: value for name, value in found.items() if value not in (None, ())}
        values.update(given)
        places.update({name: place(name) for name in given})

    take({"base_url": os.environ.get("PERSTACK_BASE_URL") or None}, lambda name: "PERSTACK_BASE_URL")
    take({name: os.environ.get(variable_of(name)) or None for name in OPTIONS}, variable_of)
    take(parse_mount_options(mount_options), lambda name: f"-o {name}")
    take(flags, flag_of)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise UsageError(_describe_first_problem(error, places)) from None
    except RuntimeError:  # platformdirs: neither HOME nor the system's list of users names one
        raise UsageError(
            "this user has no home directory: set HOME, or give --state-dir and --cache-dir"
        ) from None


def parse_mount_options(strings: Iterable[str]) -> dict[str, Any]:
    """Return the settings in `-o a,b=c` strings; the last of each name counts. Raises UsageError for an unknown name."""
    parts = [part for string in strings for part in string.split(",") if part]
    values: dict[str, Any] = {}
    for part in parts:
        if part in _WORDS:
            values |= _WORDS[part]
        elif not _NOISE.fullmatch(part.partition("=")[0]):
            _parse_option(part, values)
    return values


def _parse_option(part: str, values: dict[str, Any]) -> None:
    """Put one setting of an `-o` string into `values`. Raises UsageError."""
    name, equals, value = part.partition("=")
    key = name.replace("-", "_")
    if key not in OPTIONS:
        raise UsageError(_unknown_option_message(name))
    if not equals and not is_switch(key):
        raise UsageError(f"-o {name} needs a value: -o {name}={OPTIONS[key].title}.")
    if key == "local_only":
        value = ":".join(filter(None, (values.get(key), value)))
    values[key] = value if equals else True


def _unknown_option_message(name: str) -> str:
    if name.replace("-", "_") in ("api_key", "key", "token"):
        return "The API key can't be given on the command line: use -o api_key_file=FILE or PERSTACK_API_KEY."
    return f"Unknown option -o {name[:64]}" + _suggest(name)


def _suggest(name: str, spell: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(name.lower().replace("-", "_"), OPTIONS, 1)
    return f": did you mean {spell(close[0])}?" if close else "."


def describe_unknown_variables() -> Iterator[str]:
    """Yield a message for each environment variable that begins with `JOBFS_` and is not that of a setting."""
    known = set(map(variable_of, OPTIONS))
    for name in sorted(os.environ):
        if name.startswith("JOBFS_") and name not in known:
            yield f"{name[:64]} is not a setting" + _suggest(name[6:], variable_of)


def _describe_first_problem(error: ValidationError, places: Mapping[str, str]) -> str:
    """Return a message on the first invalid value, which names the flag, option or variable that gave it."""
    problem = error.errors(include_url=False)[0]
    what = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    # Only the bounds of sizes have so many digits.
    what = re.sub(r"\d{7,}", lambda bound: format_size(int(bound[0])), what)
    where = places[str(problem["loc"][0])]
    return f"{where} {what.partition(', unable')[0]}, not {str(problem['input'])[:80]!r}."
