"""`python -m tests.stress NAME …`: the programs that put jobfs under stress; each has a script of its name in `scripts/`."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    name = sys.argv.pop(1)
    package = {"crash-test": "killing"}.get(name, name)
    importlib.import_module(f"tests.stress.{package}.main").main(prog_name=f"scripts/{name}")
