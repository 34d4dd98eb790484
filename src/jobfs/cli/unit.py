"""`jobfs systemd-unit JOB DIR`: a unit for the systemd of a user, which mounts at login or at boot, and drains at the end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import click
import platformdirs

from jobfs.api.access import check_base_url, check_job_id
from jobfs.cli.helper import program
from jobfs.cli.options import Command, not_empty, setting_options
from jobfs.errors import UsageError
from jobfs.settings import OPTIONS, Settings, flag, load

#: Seconds that `jobfs umount` has at the end.
_DRAIN = 300
#: A word that stays as it is in a unit.
_PLAIN = re.compile(r"[A-Za-z0-9_@:,./=+-]+")

_UNIT = """\
# Save as ~/.config/systemd/user/{name}, then:
#   systemctl --user daemon-reload
#   systemctl --user enable --now {name}
# To have it from boot on, and not from login on: loginctl enable-linger
# Its log: journalctl --user -u {name}
[Unit]
Description=Workspace of job {job}

[Service]
Type=notify
ExecStart={start}
# Sends what is unsent; what can't be sent in that time is kept for the next mount.
# "-": that somebody has unmounted it before is no failure.
ExecStop=-{stop}
TimeoutStopSec={timeout:.0f}
# Unless ExecStart names a key file: a file of mode 600 with the line PERSTACK_API_KEY=...
EnvironmentFile=-{environment}
# A killed mount is mounted again and goes on sending. 1: it was unmounted, and something could not be sent.
Restart=on-failure
RestartSec=30
RestartPreventExitStatus=1

[Install]
WantedBy=default.target
"""


@click.command("systemd-unit", cls=Command, short_help="Print a systemd user unit that mounts JOB at DIR.")
@click.argument("job")
@click.argument("directory", callback=not_empty, metavar="DIR")
@setting_options("base_url", "api_key_file", "state_dir", "mount_options")
def systemd_unit(job: str, directory: str, mount_options: tuple[str, ...], **flags: Any) -> int:
    """Print a unit for `systemctl --user` that mounts JOB at DIR with the settings given here, or in the environment.

    The API key is not in it: it is read from --api-key-file, else from a file of environment variables.
    """
    settings = load(flags, mount_options)
    check_job_id(job)
    check_base_url(settings.base_url)
    jobfs, place = program(), os.path.abspath(directory)
    start = [jobfs, "mount", job, place, "--foreground", *_flags(settings)]
    stop = [jobfs, "umount", place, "--timeout", str(_DRAIN)]
    if "state_dir" in settings.model_fields_set:
        stop += ["--state-dir", str(settings.state_dir)]
    text = _UNIT.format(
        name=f"jobfs-{job}.service",
        job=job,
        start=_line(start),
        stop=_line(stop),
        # A program that keeps the mount busy is waited for as long as --timeout, and so is the last sending.
        timeout=_DRAIN + 2 * settings.timeout + 15,
        environment=_escaped(str(platformdirs.user_config_path("jobfs") / "environment")),
    )
    click.echo(text, nl=False)
    return 0


def _flags(settings: Settings) -> Iterator[str]:
    """The settings that were given, whichever way, as flags."""
    for name in OPTIONS:
        value = getattr(settings, name)
        if name not in settings.model_fields_set or value is False:
            continue
        if value is True:
            yield flag(name)
        else:
            shown = (
                f"{value:03o}" if name == "umask" else ":".join(value) if isinstance(value, tuple) else value
            )
            yield f"{flag(name)}={shown}"


def _line(words: list[str]) -> str:
    """A command line as systemd reads it (systemd.service(5), Command Lines)."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    text = _escaped(word).replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _escaped(text: str) -> str:
    """The text without specifiers (systemd.unit(5)). Raises UsageError for characters that a line of a unit can't hold."""
    if any(ord(character) < 32 for character in text):
        raise UsageError(f"a unit can't hold the name {text!r}: give another directory")
    return text.replace("%", "%%")
