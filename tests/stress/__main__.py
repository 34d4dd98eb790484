"""`python -m tests.stress NAME …`: the programs that put jobfs under stress; each has a script of its name in `scripts/`."""

from __future__ import annotations

import importlib
import sys

_PROGRAMS = {
    "crash-test": "killing.main",
    "load": "load.main",
}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    importlib.import_module(f"tests.stress.{_PROGRAMS[name]}").main(prog_name=f"scripts/{name}")
