"""Another boot of this machine: what a mount finds after a loss of power."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobfs.content import disk
from jobfs.save import recovery
from jobfs.state import note_log, store


def reboot(home: Path, boot: str, patch: Callable[[Any, str, Any], object] = setattr) -> None:
    """Let saves, notes of reads and the content cache see this boot from now on."""
    for module in (note_log, recovery, store):
        patch(module, "BOOT", boot)
    boot_id = home / "boot_id"
    boot_id.write_text(boot)
    patch(disk, "_BOOT_ID", boot_id)
