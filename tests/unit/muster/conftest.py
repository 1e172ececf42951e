"""The command line, and the gateway that it calls."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muster.__main__ import main
from tests.unit.muster.gateway_stub import GatewayStub


@pytest.fixture
def gateway(monkeypatch) -> Iterator[GatewayStub]:
    stub = GatewayStub()
    monkeypatch.setenv("MUSTER_URL", stub.url)
    thread = threading.Thread(target=stub.server.serve_forever, args=(0.01,))
    thread.start()
    yield stub
    stub.server.shutdown()
    thread.join()
    stub.server.server_close()


@pytest.fixture
def muster(capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; returns exit code, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without a configuration file."""
    monkeypatch.chdir(tmp_path)
