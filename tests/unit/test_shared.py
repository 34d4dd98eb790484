"""A wheel that is built from the source distribution, in a virtual environment that knows nothing of the checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import get_type_hints
from zipfile import ZipFile

import click
import pytest

import jobfs
from jobfs import cli
from jobfs.cli import COMMANDS
from jobfs.cli.install import completion_script
from jobfs.document import Status, WatchEvent

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def run(*command: str | Path, cwd: Path) -> str:
    """What the program prints; it must not fail, nor say anything on stderr."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def roff(page: Path) -> str:
    """The page as text; it must not give a warning."""
    return run("groff", "-man", "-Tascii", "-ww", "-P-cbou", "-rHY=0", page, cwd=page.parent)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, place, cwd=ROOT)
    (source,) = place.glob("jobfs-*.tar.gz")
    run(
        *PIP, "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "-w", place, source,
        cwd=place,
    )  # fmt: skip
    (wheel,) = place.glob("jobfs-*.whl")
    return wheel


@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_a_python_that_is_too_old_is_refused_with_the_needed_version(tmp_path: Path, how: str) -> None:
    build = (
        f"import platform; platform.python_version = lambda: '3.10.12'; "
        f"from hatchling.build import build_{how} as build; build({str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (1, "", [])
    assert done.stderr == "jobfs needs Python >=3.11, and this is Python 3.10.12\n"


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(prefix, with_pip=False)
    run(
        *PIP, "--python", prefix / "bin/python", "install", "--quiet", "--no-index", "--no-deps", wheel,
        cwd=prefix,
    )  # fmt: skip
    # The packages that jobfs needs are taken from here; links to checkouts are not followed from such a line.
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site,) = prefix.glob("lib/python*/site-packages")
    (site / "others.pth").write_text("\n".join(here))
    return prefix


def test_the_installed_program_runs_and_knows_its_version(prefix: Path) -> None:
    ask = (
        "import jobfs, importlib.metadata as m; print(jobfs.__file__, jobfs.__version__, m.version('jobfs'))"
    )
    file, version, described = run(prefix / "bin/python", "-c", ask, cwd=prefix).split()
    assert Path(file).is_relative_to(prefix)
    assert version == described == jobfs.__version__
    assert run(prefix / "bin/jobfs", "--version", cwd=prefix) == f"jobfs, version {version}\n"
    assert "Usage: jobfs mount" in run(prefix / "bin/jobfs", "mount", "--help", cwd=prefix)


@pytest.mark.needs_program("groff")
def test_each_command_has_its_man_page_and_completion_in_each_shell(prefix: Path) -> None:
    pages = {path.name: path for path in prefix.glob("share/man/man1/*")}
    assert set(pages) == {"jobfs.1", *(f"jobfs-{name}.1" for name in COMMANDS)}
    group = click.Context(cli.jobfs)
    for name in COMMANDS:
        shown = roff(pages[f"jobfs-{name}.1"])
        command = cli.jobfs.get_command(group, name)
        assert command is not None
        shown_options = [option for option in command.params if not getattr(option, "hidden", False)]
        options = [flag for option in shown_options for flag in option.opts if flag[0] == "-"] + ["-h"]
        assert [flag for flag in options if flag not in shown] == []
    listed = roff(pages["jobfs.1"])
    assert ("jobfs-umount(1)" in listed, "jobfs-emulator(1)" in listed) == (True, False)
    for page, document in ("jobfs-status.1", Status), ("jobfs-watch.1", WatchEvent):
        titles = re.findall(r"^ {7}\S.*", roff(pages[page]).partition("FIELDS")[2], re.M)
        assert set(get_type_hints(document)) <= set(re.findall(r"\w+", " ".join(titles))), (
            "the fields of its document"
        )
    for shell, place in (
        ("bash", "bash-completion/completions/jobfs"),
        ("zsh", "zsh/site-functions/_jobfs"),
        ("fish", "fish/vendor_completions.d/jobfs.fish"),
    ):
        assert (prefix / "share" / place).read_text() == completion_script(shell), (
            "completion is where each shell looks"
        )


def test_the_wheel_has_jobfs_and_nothing_else(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    version = jobfs.__version__
    assert {name.split("/")[0] for name in names} == {
        "jobfs", f"jobfs-{version}.data", f"jobfs-{version}.dist-info",
    }  # fmt: skip
    assert "jobfs/py.typed" in names
