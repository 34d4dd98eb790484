"""npm on a real mount with --local-symlinks: packages of this machine's own, and no network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.files import on_disk
from tests.support.mounts import MountedJob, run
from tests.support.serverside import below, doubled, visible

from jobfs.emulator import Server

_QUIET = "--offline --no-audit --no-fund --no-update-notifier"

#: The packages, by directory: `greet` has a program, and needs `words`.
_PACKAGES = {
    "words/package.json": {"name": "words", "version": "1.2.0", "main": "lib/index.js"},
    "words/lib/index.js": "module.exports = { hello: 'hello' }\n",
    "greet/package.json": {
        "name": "greet",
        "version": "2.0.1",
        "bin": {"greet": "bin/greet.js"},
        "dependencies": {"words": "^1.0.0"},
    },
    "greet/bin/greet.js": "#!/usr/bin/env node\nconsole.log(`${require('words').hello}, ${process.argv[2]}`)\n",
    "app/package.json": {"name": "app", "version": "0.0.1", "scripts": {"start": "greet script"}},
}

_INSTALL = f"npm install {_QUIET} ./vendor/words-1.2.0.tgz ./vendor/greet-2.0.1.tgz"

#: Each way of running what was installed, with what it prints last; `npm ls` ends with an error if anything is amiss.
_USES = {
    "./node_modules/.bin/greet you": "hello, you",
    "npm run --silent start": "hello, script",
    f"npm ls --all {_QUIET} | grep -c -e words@1.2.0 -e greet@2.0.1": "3",
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A project on the local disk, with the packages that it is to install packed below it."""
    for name, content in _PACKAGES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (tmp_path / "app/vendor").mkdir()
    script = "npm pack --silent --pack-destination app/vendor ./words ./greet"
    run(tmp_path, "bash", "-e", "-c", script, home=tmp_path / "npm")
    return tmp_path / "app"


def test_npm_installs_packages_whose_programs_run_after_a_remount_too(
    server: Server, mount: Callable[..., MountedJob], app: Path
) -> None:
    """vfs/semantics.md 2: --local-symlinks, for people who run `npm install` in a workspace."""
    mounted = mount(local_symlinks=True)
    run(mounted.path, "cp", "-r", app, "app")

    def npm(at: Path, script: str) -> str:
        return run(at, "bash", "-e", "-o", "pipefail", "-c", script, home=mounted.home, timeout=80)

    npm(app, _INSTALL)
    npm(mounted.path / "app", _INSTALL)
    assert os.readlink(mounted.path / "app/node_modules/.bin/greet") == "../greet/bin/greet.js"
    mounted.settled()
    mounted.remount()
    for use, said in _USES.items():
        assert npm(mounted.path / "app", use).splitlines()[-1] == said, use
    mounted.settled()
    assert below(server, "app") == on_disk(app), "as on a disk, less the links"
    npm(mounted.path / "app", f"npm uninstall {_QUIET} greet words")
    mounted.settled()
    left = {path for path in visible(server) if "greet" in path or "words" in path}
    assert left == {"app/vendor/greet-2.0.1.tgz", "app/vendor/words-1.2.0.tgz"}
    assert doubled(server) == []
    assert mounted.status()["conflicts"] == []
