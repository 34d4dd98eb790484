"""Whole trees: copied in, and removed."""

from __future__ import annotations

import os
import time

from tests.stress.report import at_most, equal

from .bounds import Bounds
from .expected import tree_of
from .rewriting import put_on_disk, tree
from .stage import Stage


def copied(stage: Stage, files: int, latency: float) -> None:
    """`cp -r` of many files, then `rm -rf` of them once the server has all."""
    here = put_on_disk(stage.home / "here", tree(files, "tree")) / "tree"
    stage.start({"kept.txt": b"kept"}, latency=latency)
    with stage.doing(f"cp -r of {files:,} files, rm -rf, at {latency:g} ms", files):
        stage.run("cp", "-r", here, stage.path)
        stage.rest(10 + files / 25)
    stage.expected.put_all({"tree": None, **tree_of(here, "tree")})
    stage.compare()
    stage.run("rm", "-rf", "tree", cwd=stage.path)
    for path in ("tree", *tree_of(here, "tree")):
        stage.expected.forget(path)
    stage.finish(Bounds(files=files), within=10 + files / 50)


def removed(stage: Stage, directories: int, files: int, beside: int, at_once: int, latency: float) -> None:
    """`rm -rf` of deep trees, some at once, beside other files: no error, nothing left, and few requests."""
    trees = [f"tree{number}" for number in range(at_once)]
    branches = max(
        1, directories // (4 * at_once)
    )  # each is a directory with one in it with one in it with one in it
    places = [f"{top}/a{number}/b/c/d" for top in trees for number in range(branches)]
    there: dict[str, bytes | None] = {f"kept/f{number}": b"kept" for number in range(beside)}
    made = {f"{places[number % len(places)]}/f{number}": b"goes" for number in range(files)}
    stage.start({**there, **dict.fromkeys(places), **made}, latency=latency)
    stage.run("ls", "-lR", cwd=stage.path)
    stage.server.forget()
    began = time.monotonic()
    with stage.doing(f"rm -rf of {4 * len(places):,} directories, {files:,} files, {at_once} at once", files):
        commands = "".join(f"rm -rf {top} & p{number}=$!; " for number, top in enumerate(trees))
        stage.run(
            "sh",
            "-c",
            commands + " && ".join(f"wait $p{number}" for number in range(at_once)),
            cwd=stage.path,
        )
        stage.check(equal("trees that are shown afterwards", sorted(os.listdir(stage.path)), ["kept"]))
        stage.rest(15 + directories / 10)
    took = time.monotonic() - began
    for path in (*places, *made):
        for end in range(1, path.count("/") + 2):
            stage.expected.forget("/".join(path.split("/")[:end]))
    single = sum(map(stage.server.requests, ("find", "get", "update", "delete")))
    pages = 1 + (beside + files + 4 * len(places)) // 99
    stage.check(
        at_most("requests but for lists", single, 3 * (4 * len(places) + at_once) + 2 * files + 20),
        at_most("pages of lists", stage.server.requests("list"), (2 * took + 4) * pages),
    )
    # Those that were removed stand under hidden names until the next listing.
    stage.finish(Bounds(files=files, removed=4 * len(places)))
