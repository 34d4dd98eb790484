"""jobfs mounts the workspace of a running AI job as a directory."""


def __getattr__(name: str) -> str:
    # Late: reading the installed package's metadata takes as long as a fifth of a mount.
    if name == "__version__":
        from importlib.metadata import version

        return version("jobfs")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
