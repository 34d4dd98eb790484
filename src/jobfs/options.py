"""The settings of a mount as people see them: each with its help, without what it takes to check a value.

That is in settings.py, which takes ten times as long to load: whoever only asks for help does not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as the command line shows it; without a `metavar` it is a flag.

    `default`: None where it depends on the user; `shown`: the default in words, where the value does not say it; `choices`: all
    values that there are.
    """

    name: str
    help: str
    metavar: str = ""
    default: Any = None
    shown: str = ""
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The long option, `--write-back-delay`."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable, `JOBFS_WRITE_BACK_DELAY`."""
        return "JOBFS_" + self.name.upper()

    @property
    def is_flag(self) -> bool:
        """True if it takes no value."""
        return not self.metavar

    @property
    def multiple(self) -> bool:
        """True if it may be given several times."""
        return isinstance(self.default, tuple)

    @property
    def default_text(self) -> str:
        """The default for the help, "" if the help says it."""
        return self.shown or (f"{self.default:g}" if isinstance(self.default, float) else "")


#: Every setting by its name, in the order of the help.
OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option(
            "base_url", "Where the API is (https, or http to this machine).", "URL",
            "https://api.perstack.ai",
        ),
        Option("api_key_file", "Read the API key from FILE (else PERSTACK_API_KEY).", "FILE"),
        Option("cache_dir", "Where contents are cached.", "DIR"),
        Option("state_dir", "Where unsent work is kept.", "DIR"),
        Option("ttl", "The job's changes show within this time.", "SECONDS", 5.0),
        Option("write_back_delay", "Wait this long after a close before sending, less if many wait.", "SECONDS", 0.5),
        Option("sync_on_close", "A close returns when the server has the file.", default=False),
        Option("read_only", "Refuse everything that writes; also -o ro.", default=False),
        Option("timeout", "Fail after this long without progress.", "SECONDS", 30.0),
        Option(
            "stale_if_error", "Serve what is known for this long while the server cannot be reached.", "SECONDS", 300.0
        ),
        Option(
            "request_lifetime", "How long a request that lost its connection may still be carried out.", "SECONDS", 30.0
        ),
        Option("max_connections", "At most this many connections to the server.", "N", 16, "16"),
        Option(
            "cache_size", "Cache at most this much, e.g. 512MiB.", "SIZE", 2 * 2**30, "2GiB"
        ),
        Option(
            "local_only", "Files of such names stay on this machine; may be repeated, or joined with colons.", "PATTERN", ()
        ),
        Option(
            "local_symlinks", "Keep symbolic links on this machine, where the job does not see them.", default=False
        ),
        Option("umask", "Octal mask taken off the permissions shown.", "MASK", 0o022, "022"),
        Option("uid", "Owner of everything in the mount.", "USER", shown="you"),
        Option("gid", "Group of everything in the mount.", "GROUP", shown="yours"),
        Option("allow_other", "Let other users of this machine in.", default=False),
        Option("noexec", "Let no program in the mount be run.", default=False),
        Option(
            "allow_core_dumps", "Let a crash leave a core dump, and debuggers attach; the API key is in it.",
            default=False,
        ),
        Option(
            "log_level", "How much to log: debug, info, warning or error.", "LEVEL", "warning", "warning",
            ("debug", "info", "warning", "error"),
        ),
        Option("log_format", "How to log: text, or json (an object a line).", "HOW", "text", "text", ("text", "json")),
        Option(
            "create_encoding", "How new files are sent: auto, multipart or json.", "HOW", "auto", "auto",
            ("auto", "multipart", "json"),
        ),
    )
}  # fmt: skip
