"""`jobfs info PATH`: what the server knows of a file, and how far this machine is with it."""

from __future__ import annotations

import json

import click

from jobfs import control
from jobfs.cli.completion import files
from jobfs.cli.options import state_dir_option
from jobfs.cli.running import mount_of
from jobfs.cli.screen import tell
from jobfs.errors import FsError

#: semantics.md section 2.
FIELDS = (
    "id", "owner", "lifecycle", "permission", "mime_type", "key", "created_at", "updated_at",
    "state", "error",
)  # fmt: skip


@click.command("info", short_help="Show what the server knows of a file.")
@click.argument("path", shell_complete=files)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
def info(path: str, as_json: bool, state_dir: str | None) -> int:
    """Show what the server knows of the file or directory PATH in a mount, and its state on this machine."""
    found, inside = mount_of(path, state_dir)
    try:
        facts = control.call(found.path, "info", {"path": inside}, timeout=60.0)
    except FsError as error:
        raise FsError(error.errno, f"{path}: {error}") from None
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return 0
    names = [*FIELDS, *(name for name in facts if name not in FIELDS)]
    width = max(map(len, names))
    for name in names:
        value = facts.get(name)
        if value not in (None, "", []):
            tell(f"{name:{width}}  {value}")
    return 0
