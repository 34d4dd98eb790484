"""jobfs mounts the workspace of a running AI job as a directory."""

from importlib.metadata import version

__version__ = version("jobfs")
