"""Python programs that hold files of a mount open, and run what they are sent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Runs each line, a literal with Python code. The answer is "ok", the errno's name, or "interrupted".
_CODE = """
import ast, errno, mmap, os, signal, sys
for line in sys.stdin:
    try:
        exec(ast.literal_eval(line))
        print("ok", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


class Holder:
    """A running program; what one call has named is there for the next one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def does(self, code: str) -> str:
        """Run code; return its result: "ok", the errno's name, or "" if the program ends."""
        self.begins(code)
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def begins(self, code: str) -> None:
        """Run code, and do not wait for its result."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{code!r}\n")
        self.process.stdin.flush()


@contextmanager
def python(cwd: Path = Path("/")) -> Iterator[Holder]:
    """Run a program in `cwd`; kill it afterwards."""
    command, pipe = ["env", "-C", str(cwd), sys.executable, "-c", _CODE], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Holder(process)
        finally:
            process.kill()


@contextmanager
def holding(path: Path) -> Iterator[Holder]:
    """Run a program that makes or opens the file `path`, as its `file`; kill it afterwards."""
    with python() as holder:
        assert holder.does(f"file = os.open({str(path)!r}, os.O_RDWR | os.O_CREAT, 0o644)") == "ok"
        yield holder
