"""jobfs mounts the workspace of a running AI job as a directory."""

#: The one place where the version is said: the package's metadata, `--version` and the user agent have it from here.
__version__ = "0.1.0"
