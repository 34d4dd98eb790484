"""The options that a mount is made with."""

from __future__ import annotations

from jobfs.mount import mount_options
from jobfs.settings import load

JOB = "j" * 24


def test_the_mount_is_named_and_the_kernel_remembers_for_a_part_of_the_ttl() -> None:
    """vfs/semantics.md 1: kernel timeouts count into the TTL."""
    options = mount_options(load({"ttl": 2}), JOB)
    assert f"fsname={JOB}" in options
    assert {"subtype=jobfs", "use_ino", "default_permissions", "big_writes"} <= set(options)
    assert {"attr_timeout=0.4", "entry_timeout=0.4", "negative_timeout=0"} <= set(options)
    assert not {"ro", "allow_other"} & set(options)
    assert "ro" in mount_options(load({"read_only": True}), JOB)


def test_the_user_option_of_fstab_implies_noexec() -> None:
    """mount(8): user implies noexec, unless exec comes after it."""
    assert "noexec" in mount_options(load({}, ["ro,user,noexec,nosuid,nodev,_netdev"]), JOB)
    assert "noexec" not in mount_options(load({}, ["user,noexec", "exec"]), JOB)
    assert "noexec" not in mount_options(load({}, ["rw,_netdev"]), JOB)
