"""Runs the marked blocks of the pages, and compares their output with the output that the pages show.

    <!-- runs: NAME -->             before a block; with `needs PROGRAM …` after NAME if it drives TEST_TOOLS of scripts/_setup
    ```console                      `$ ` begins a command; the other lines are its complete output. A command without
    $ jobfs status ~/job            such lines must print nothing.
    ```

A command must exit with 0, or with the code in a comment at its end: `# exit code 1`. A block runs in one shell, which starts in
the clone. JOB and OTHER_JOB stand for jobs of a local server, the first with the sample's files. The home directory is empty at
first, and shown as /home/you; paths in /tmp are in a directory of the run. `…` stands for any text, on a line of its own for any
lines. Ids, hashes, numbers with a unit, a fraction or at least two digits, and white space are not compared.

    <!-- script: NAME -->           before a bash block: a program that the user saves as NAME. Blocks find it in PATH.
"""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobfs.emulator import DEFAULT_JOB, EmulatorConfig, running
from jobfs.emulator.sample import seed_sample

from .mounts import detach, environment

ROOT = Path(__file__).parents[2]
#: The pages that may have such blocks; block names are unique across them.
PAGES = ("README.md", "src/jobfs/using.md")
OTHER_JOB = "other1234567890123456789".ljust(24, "0")

_BLOCK = re.compile(
    r"^<!-- runs: ([\w-]+)(?: needs ([\w -]+))? -->\n```console\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL
)
_SCRIPT = re.compile(r"^<!-- script: ([\w-]+) -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"# exit code (\d+)")

#: What differs from run to run; replaced in this order.
_VARIES = (
    (re.compile(r"\b([a-z0-9]{24}|(OTHER_)?JOB)\b"), "ID"),
    (re.compile(r"\b[0-9a-f]{7,40}\b"), "HASH"),
    (re.compile(r"\d+(\.\d+)? ?m?s\b"), "N s"),
    (re.compile(r"\d+(\.\d+)? ?([kMG]B|[KMG]iB|bytes)(?!\w)"), "N bytes"),
    (re.compile(r"\d+\.\d+|\d{2,}"), "N"),
    (re.compile(r"\s+"), " "),
)


class RecipeError(Exception):
    """A block is malformed, a command failed, or its output is not the one shown."""


@dataclass(frozen=True)
class Step:
    """One command, the exit code that it must have, and the lines that it must print."""

    command: str
    code: int
    shown: list[str]


def blocks(text: str) -> dict[str, Block]:
    """Return every marked block by its name. Raises RecipeError for a mark without a block."""
    found = {
        name: Block([_step(part) for part in re.split(r"^\$ ", body, flags=re.M)[1:]], needs.split())
        for name, needs, body in _BLOCK.findall(text)
    }
    if (marks := text.count("<!-- runs:")) != len(found):
        raise RecipeError(f"{marks} marks, but {len(found)} marked blocks: see the head of {__name__}")
    return found


def install_scripts(directory: Path) -> None:
    """Save the scripts of all pages, executable, in a new directory."""
    directory.mkdir()
    for page in PAGES:
        for name, text in _SCRIPT.findall((ROOT / page).read_text()):
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)


def _step(text: str) -> Step:
    command, *shown = text.splitlines()
    code = _CODE.search(command)
    return Step(command, int(code[1]) if code else 0, shown)


@dataclass(frozen=True)
class Block:
    """A marked block: its steps, and the programs that it drives besides those that every system has."""

    steps: list[Step]
    needs: list[str]


@dataclass(frozen=True)
class Sandbox:
    """A home, a directory for temporary files, and an environment, for commands that find a server with the two jobs."""

    home: Path
    tmp: Path
    environment: Mapping[str, str]

    def given(self, command: str) -> str:
        """Return a page's command with this sandbox's names."""
        for shown, real in (("OTHER_JOB", OTHER_JOB), ("JOB", DEFAULT_JOB)):
            command = re.sub(rf"\b{shown}\b", real, command)
        return re.sub(r"(?<![\w.~])/tmp/", f"{self.tmp}/", command)

    def shown(self, output: str) -> str:
        """Return an output with the names that the pages use."""
        for real, shown in (
            (str(self.tmp), "/tmp"), (str(self.home), "/home/you"), (OTHER_JOB, "OTHER_JOB"), (DEFAULT_JOB, "JOB"),
            (f"jobfs-demo-{getpass.getuser()}", "jobfs-demo-root"),
        ):  # fmt: skip
            output = output.replace(real, shown)
        return output

    def outputs(self, steps: Sequence[Step], timeout: float = 90) -> list[str]:
        """Run the steps in one shell; return the output of each, of both streams. Raises RecipeError if one fails."""
        script, log = self.tmp / "recipe.sh", self.tmp / "recipe.log"
        script.write_text("".join(map(self._shell, steps)))
        with log.open("wb") as out:
            shell = subprocess.Popen(
                ["bash", script], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )  # fmt: skip
            try:
                code = shell.wait(timeout)
            except subprocess.TimeoutExpired:
                shell.kill()
                code = shell.wait()
        printed = self.shown(log.read_text(errors="replace")).split("\x1e")[1:]
        outputs = [output.partition("\x1f") for output in printed]
        for step, (output, _, ended) in zip(steps, outputs, strict=False):
            if ended != str(step.code):
                raise RecipeError(f"$ {step.command}\nended with {ended or code}, not {step.code}:\n{output}")
        if len(outputs) != len(steps):
            raise RecipeError(f"the shell ended with {code} before\n$ {steps[len(outputs)].command}")
        return [output for output, _, _ in outputs]

    def _shell(self, step: Step) -> str:
        return f"""printf '\\036'
{{ {self.given(step.command)}
}}
code=$?
printf '\\037%d' $code
[ $code = {step.code} ] || exit
"""


@contextmanager
def sandbox(place: Path) -> Iterator[Sandbox]:
    """Make a sandbox in an empty directory, with a server; end everything mounted or started there afterwards."""
    home, tmp, programs = place / "home", place / "tmp", place / "programs"
    install_scripts(programs)
    tmp.mkdir()
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\nname = you\nemail = you@localhost\n")
    with ExitStack() as stack:
        server = stack.enter_context(running(EmulatorConfig(jobs=(DEFAULT_JOB, OTHER_JOB)), place / "server"))
        seed_sample(server.job_side(DEFAULT_JOB))
        stack.callback(_end_all, place)
        yield Sandbox(
            home,
            tmp,
            environment(home, server.key)
            | {
                "PATH": f"{Path(sys.executable).parent}:{programs}:{os.environ['PATH']}",
                "PERSTACK_BASE_URL": server.url,
                "TMPDIR": str(tmp),
                "COLUMNS": "100",
                "TABSIZE": "0",
            },
        )


def _end_all(place: Path) -> None:
    """Unmount everything below `place`; the processes end by themselves."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        point = line.split()[1].replace("\\040", " ")
        if point.startswith(f"{place}/"):
            detach(Path(point))


def same(shown: Sequence[str], printed: str) -> bool:
    """Return whether an output is the one shown, apart from what varies."""
    pattern = "".join(
        "(?:.*\n)*" if line.strip() == "…" else re.escape(_normal(line)).replace("…", ".*") + "\n"
        for line in "\n".join(shown).rstrip().splitlines()
    )
    lines = [_normal(line) + "\n" for line in printed.rstrip().splitlines()]
    return re.fullmatch(pattern, "".join(lines)) is not None


def _normal(line: str) -> str:
    for pattern, name in _VARIES:
        line = pattern.sub(name, line)
    return line.strip()


def check(steps: Sequence[Step], box: Sandbox) -> None:
    """Run a block. Raises RecipeError for the first command that fails, or whose output is not the one shown."""
    for step, printed in zip(steps, box.outputs(steps), strict=True):
        if not same(step.shown, printed):
            shown = "\n".join(step.shown)
            raise RecipeError(f"$ {step.command}\nis shown with\n{shown}\nbut printed\n{printed}")
