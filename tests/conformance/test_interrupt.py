"""Programs that wait for the server can be ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.mounts import mounting
from tests.support.waiting import eventually

from jobfs.emulator import EmulatorConfig, running

#: Reads a file, with SIGINT as a shell in a terminal leaves it.
READER = "import signal, sys; signal.signal(2, signal.SIG_DFL); open(sys.argv[1], 'rb').read()"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_waits_for_the_server_ends_when_it_is_told_to(
    tmp_path: Path, number: signal.Signals
) -> None:
    """semantics 3.16: Ctrl-C works, though the call itself would go on for as long as --timeout."""
    (tmp_path / "server").mkdir()
    with running(EmulatorConfig(), tmp_path / "server") as server:
        server.store.seed({"file": "text"}, age=60)
        server.faults.rate("hang", 1.0, on="download")
        with mounting(server, tmp_path / "home", timeout=80) as mounted:
            reader = subprocess.Popen([sys.executable, "-c", READER, str(mounted.path / "file")])
            try:
                eventually(lambda: server.log.count("download"), "the file is asked for")
                assert reader.poll() is None
                reader.send_signal(number)
                assert reader.wait(20) == -number
            finally:
                reader.kill()
                reader.wait()
