"""The two programs, built from the user's sources in a directory of this run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

#: What pjdfstest's configure finds on Linux with glibc, so that autoconf and automake are not needed.
_CONFIG = """\
#define _GNU_SOURCE 1
#define HAVE_SYS_SYSMACROS_H 1
#define HAVE_FACCESSAT 1
#define HAVE_FCHMODAT 1
#define HAVE_FCHOWNAT 1
#define HAVE_FSTATAT 1
#define HAVE_LINKAT 1
#define HAVE_MKDIRAT 1
#define HAVE_MKFIFOAT 1
#define HAVE_MKNODAT 1
#define HAVE_OPENAT 1
#define HAVE_POSIX_FALLOCATE 1
#define HAVE_READLINKAT 1
#define HAVE_RENAMEAT 1
#define HAVE_SYMLINKAT 1
#define HAVE_UNLINKAT 1
#define HAVE_UTIMENSAT 1
#define HAVE_STRUCT_STAT_ST_ATIM 1
#define HAVE_STRUCT_STAT_ST_CTIM 1
#define HAVE_STRUCT_STAT_ST_MTIM 1
"""
#: The package of each program that can be missing.
_PACKAGES = {"cc": "gcc and libc6-dev", "openssl": "openssl"}


class NotRunnableError(Exception):
    """The suites can't be run here; the text is one sentence."""


def require_programs(names: Iterable[str]) -> None:
    """Raise NotRunnableError, with the packages, if one of these programs is missing."""
    missing = sorted(name for name in set(names) if shutil.which(name) is None)
    if missing:
        packages = ", ".join(_PACKAGES[name] for name in missing)
        raise NotRunnableError(f"{' and '.join(missing)} can't be found; install {packages}")


def require_pjdfstest(source: Path) -> None:
    """Raise NotRunnableError if `source` does not have what a clone of pjdfstest has."""
    _require_directory(source)
    for name in ("pjdfstest.c", "tests/misc.sh"):
        if not (source / name).is_file():
            raise NotRunnableError(f"{source} is no clone of pjdfstest: it has no {name}")


def is_built(source: Path) -> bool:
    """Return True if pjdfstest was built in `source`, and needs no compiler."""
    return (source / "pjdfstest").is_file()


def build_pjdfstest(source: Path, copy: Path) -> Path:
    """Copy pjdfstest to `copy` and build it there, unless it was built in `source`. Returns the copy."""
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".git"), symlinks=True, dirs_exist_ok=True)
    if not is_built(copy):
        (copy / "config.h").write_text(_CONFIG)
        _compile(copy / "pjdfstest.c", copy / "pjdfstest", "-DHAVE_CONFIG_H", "-I.")
    return copy


def find_fsx(source: Path) -> Path:
    """Return the fsx.c that `source` is or has. Raises NotRunnableError if there is none."""
    if source.is_file():
        return source
    _require_directory(source)
    for name in ("fsx.c", "ltp/fsx.c", "fsx-linux.c"):
        if (source / name).is_file():
            return source / name
    raise NotRunnableError(f"{source} has no fsx.c")


def build_fsx(source: Path, directory: Path) -> Path:
    """Build fsx in `directory`, and return the program."""
    program = directory / "fsx"
    _compile(source, program, f"-I{source.parent}")
    return program


def _require_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise NotRunnableError(f"there is no directory {directory}")


def _compile(source: Path, program: Path, *options: str) -> None:
    command = ["cc", "-O", "-w", "-D_GNU_SOURCE", *options, "-o", str(program), str(source)]
    done = subprocess.run(command, cwd=program.parent, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        raise NotRunnableError(f"{source} does not compile: {(errors or ['cc failed'])[0]}")
