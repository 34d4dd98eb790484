"""What the rest of a machine needs to find jobfs: links for mount(8), a unit for systemd, completion for the shells.

mount(8) runs /sbin/mount.fuse.jobfs for `-t fuse.jobfs`, and /sbin/mount.jobfs for `-t jobfs`. Without them, `-t fuse.jobfs` runs
mount.fuse, which finds only a `jobfs` that is in PATH. umount(8) runs /sbin/umount.fuse.jobfs for a mount of jobfs, so that
umount(8), too, returns only when everything is sent: at a shutdown the network goes down after that (vfs/semantics.md 6).
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from jobfs.api.access import check_job_id, normalize_base_url
from jobfs.cli import LINKS
from jobfs.cli.options import reject_empty, setting_options
from jobfs.cli.screen import print_escaped
from jobfs.errors import JobfsError, UsageError
from jobfs.names import quote_for_shell
from jobfs.settings import OPTIONS, Settings, flag_of, load_settings

SHELLS = ("bash", "zsh", "fish")

#: The directory in which mount(8) looks for helpers.
_PLACE = Path("/sbin")
#: Seconds that the unit gives `jobfs umount`.
_DRAIN = 300
#: A word that a unit needs no quotes for.
_PLAIN = re.compile(r"[A-Za-z0-9_@%:,./=+-]+")

_UNIT = """\
# Save as ~/.config/systemd/user/jobfs-{job}.service, then:
#   systemctl --user daemon-reload
#   systemctl --user enable --now jobfs-{job}.service
# To start it at boot instead of at login: loginctl enable-linger
# Its log: journalctl --user -u jobfs-{job}.service
[Unit]
Description=Workspace of job {job}

[Service]
Type=notify
ExecStart={start}
# Sends unsent files; those that can't be sent in time are kept for the next mount.
# "-": it is no failure if the directory is already unmounted.
ExecStop=-{stop}
TimeoutStopSec={timeout:.0f}
# Needed unless ExecStart names a key file: a file of mode 600 with the line PERSTACK_API_KEY=... (%E is ~/.config)
EnvironmentFile=-%E/jobfs/environment
# A killed mount is mounted again and continues sending. Exit code 1: it was unmounted with unsent files.
Restart=on-failure
RestartSec=30
RestartPreventExitStatus=1

[Install]
WantedBy=default.target
"""


def find_program() -> str:
    """Return the absolute path of the running `jobfs`, or else of this installation's. Raises UsageError if there is none."""
    called = os.path.abspath(sys.argv[0]) if os.sep in sys.argv[0] else ""
    for path in (called, os.path.join(sysconfig.get_path("scripts"), "jobfs")):
        if os.path.basename(path) == "jobfs" and os.access(path, os.X_OK):
            return path
    raise UsageError(
        "can't find the program jobfs beside this Python: run pip install jobfs, or pip install . in a clone"
    )


@click.command("install-helper")
@click.option("--remove", is_flag=True, help="Remove the links again.")
def install_helper(remove: bool) -> int:
    """Make `mount -t fuse.jobfs JOB DIR` and lines in /etc/fstab work, wherever jobfs is installed.

    Creates links to this program where mount(8) and umount(8) look: /sbin/mount.fuse.jobfs, /sbin/mount.jobfs and
    /sbin/umount.fuse.jobfs. `umount DIR` then runs `jobfs umount DIR`. Needs root.
    """
    change_links(_PLACE, remove=remove)
    return 0


def change_links(place: Path, *, remove: bool) -> None:
    """Create in `place` the links to this program, or remove them. Raises JobfsError; changes nothing if any is another file."""
    target = find_program()
    if not os.access(place, os.W_OK):
        command = f"sudo {quote_for_shell(target)} install-helper{' --remove' * remove}"
        raise UsageError(f"only root can write to {place}: run {command}")
    links = [place / name for name in LINKS]
    for link in links:
        if os.path.lexists(link) and not (link.is_symlink() and link.readlink().name == "jobfs"):
            raise UsageError(f"{link} is not a link to jobfs: move it away first")
    try:
        for link in links:
            link.unlink(missing_ok=True)
            if remove:
                print_escaped(f"removed {link}")
            else:
                link.symlink_to(target)
                print_escaped(f"linked {link} to {target}")
    except OSError as error:
        raise JobfsError(f"can't write to {place}: {error.strerror}") from None


@click.command("systemd-unit")
@click.argument("job")
@click.argument("directory", callback=reject_empty, metavar="DIR")
@setting_options("base_url", "api_key_file", "state_dir", "mount_options")
def systemd_unit(job: str, directory: str, mount_options: tuple[str, ...], **flags: Any) -> int:
    """Print a unit for `systemctl --user` that mounts JOB at DIR with the settings given here, or in the environment.

    The unit does not contain the API key. It reads the key from --api-key-file, or from a file of environment variables.
    """
    settings = load_settings(flags, mount_options)
    check_job_id(job)
    normalize_base_url(settings.base_url)
    jobfs, place = find_program(), os.path.abspath(directory)
    stop = [jobfs, "umount", place, "--timeout", str(_DRAIN)]
    if "state_dir" in settings.model_fields_set:
        stop += ["--state-dir", str(settings.state_dir)]
    text = _UNIT.format(
        job=job,
        start=_exec_line([jobfs, "mount", job, place, "--foreground", *_given_flags(settings)]),
        stop=_exec_line(stop),
        # Up to --timeout each: the wait for a program that keeps the mount busy, and the last requests.
        timeout=_DRAIN + 2 * settings.timeout + 15,
    )
    click.echo(text, nl=False)
    return 0


def _given_flags(settings: Settings) -> Iterator[str]:
    """Yield as flags the settings that were given, in whatever way."""
    for name in filter(settings.model_fields_set.__contains__, OPTIONS):
        value = getattr(settings, name)
        if isinstance(value, bool):
            yield from [flag_of(name)] * value
        else:
            text = (
                f"{value:03o}" if name == "umask" else ":".join(value) if isinstance(value, tuple) else value
            )
            yield f"{flag_of(name)}={text}"


def _exec_line(words: list[str]) -> str:
    """Quote a command line for systemd (systemd.service(5), Command Lines). Raises UsageError for a word that can't be quoted."""
    return " ".join(map(_quote_word, words))


def _quote_word(word: str) -> str:
    if any(ord(character) < 32 for character in word):
        raise UsageError(f"a unit can't contain the name {word!r}: give another directory")
    word = word.replace("%", "%%")
    if _PLAIN.fullmatch(word):
        return word
    word = word.replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{word}"'


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print the script that lets a shell complete commands, options, choices, paths and mounted directories.

    \b
    bash: add to ~/.bashrc      eval "$(jobfs completion bash)"
    zsh:  add to ~/.zshrc       autoload -Uz compinit; compinit
                                eval "$(jobfs completion zsh)"
    fish: run once              cd ~/.config/fish/completions
                                jobfs completion fish > jobfs.fish
    """
    click.echo(completion_script(shell))


def completion_script(shell: str) -> str:
    """Return the script that makes one of `SHELLS` ask jobfs for completions."""
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(click.Command("jobfs"), {}, "jobfs", "_JOBFS_COMPLETE").source()
