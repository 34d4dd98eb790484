"""jobfs mounts the workspace of a running AI job as a directory."""

#: The version: the package's metadata, `--version` and the user agent take it from here.
__version__ = "0.1.0"
