"""A server that loads a long file is waited for, and a stop need not wait for it."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import redis
from msgspec.structs import replace

from muster.settings.loading import load
from muster.up import up
from tests.integration.muster.embedding import COMMANDS, SLOW_LOADING
from tests.waiting import until


async def test_a_server_that_loads_for_long_is_waited_for_and_logged(
    embedding, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed and started again it would never finish. The event loop is not blocked."""
    embedded = embedding(**SLOW_LOADING)
    await embedded.start()
    embedded.fill()
    before = embedded.kill()
    await until(lambda: embedded.server.pid not in (None, before))
    loading = embedded.server.pid
    await until(lambda: f"redis (pid {loading}) loads its" in capsys.readouterr().out)
    await until(lambda: "redis is running again" in capsys.readouterr().out, timeout=30)
    assert embedded.server.pid == loading
    with redis.Redis.from_url(embedded.server.url) as client:
        assert client.dbsize() == COMMANDS
    await embedded.end()


async def leave_data(embedding) -> None:
    """Fill the folder of the server, so that a slow one loads for a while."""
    filled = embedding()
    await filled.start()
    filled.fill()
    await filled.end()
    filled.server.stop()


async def test_the_first_start_waits_while_it_loads_too(
    embedding, capsys: pytest.CaptureFixture[str]
) -> None:
    await leave_data(embedding)
    capsys.readouterr()
    embedded = embedding(**SLOW_LOADING)
    starting = asyncio.ensure_future(embedded.start())
    await until(lambda: "loads its append-only file" in capsys.readouterr().out)
    assert not starting.done()
    await starting
    await embedded.end()


async def test_a_stop_request_is_received_while_it_loads(
    embedding, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await leave_data(embedding)
    capsys.readouterr()
    embedded = embedding(**{"key-load-delay": "2000"})  # five seconds
    starting = up.Up(replace(load({"data_dir": tmp_path}, {}), redis_url=""))
    running = asyncio.ensure_future(starting.run())
    await until(lambda: "loads its append-only file" in capsys.readouterr().out)
    os.kill(os.getpid(), signal.SIGINT)
    assert await running == 0
    assert embedded.server.pid is not None
    assert embedded.server.ping() != "PONG"
    starting.log_server.stop()
