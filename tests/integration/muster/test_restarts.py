"""`muster up` restarts its embedded server until it runs, and prints what is wrong."""

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from eventstore.embedded.directory import find_binary, locked
from eventstore.errors import LogUnreachable
from muster.process import restarts
from muster.settings.settings import Settings
from muster.up import log_server
from tests.full_disk import surviving, write_again, written_in_part
from tests.integration.muster.embedding import Embedding
from tests.integration.muster.terminal import Terminal
from tests.waiting import until, until_sync


async def test_a_server_that_cannot_be_started_again_is_retried_until_it_can(
    embedded: Embedding, terminal: Terminal
) -> None:
    """As on a disk that is full for a while: the terminal shows it."""
    embedded.kill()
    hidden = embedded.aof.rename(embedded.aof.with_name("hidden"))
    embedded.aof.write_text("in the way")
    await until(lambda: "redis ended with code 1" in terminal.text, what="the reason is printed")
    assert "redis ended (killed by signal 9" in terminal.text
    assert f"Not a directory; see {embedded.server.log_path}; starting it again" in terminal.text
    embedded.aof.unlink()
    hidden.rename(embedded.aof)
    await until(lambda: "redis is running again" in terminal.text)
    assert terminal.text.count("redis ended with code 1") == 1, terminal.text
    await embedded.end()


async def test_a_server_whose_folder_is_in_use_waits_for_the_end_of_the_other(
    embedded: Embedding, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as the child of a killed server that still rewrites its file."""
    lock = embedded.server.directory / "server.lock"
    with locked(lock) as acquired:
        assert acquired is None
    pid = embedded.server.pid
    embedded.kill()
    with contextlib.ExitStack() as acquired:
        until_sync(lambda: acquired.enter_context(locked(lock)) is not None)
        await until(lambda: f"another server (pid {pid}) runs on" in capsys.readouterr().out)
    await until(lambda: embedded.server.pid not in (None, pid))
    await embedded.end()


@pytest.mark.parametrize(
    "error",
    [
        BlockingIOError(11, "Resource temporarily unavailable"),
        subprocess.SubprocessError("Exception occurred in preexec_fn."),
    ],
    ids=["no process", "interrupted"],
)
async def test_a_server_that_the_system_cannot_fork_is_retried(
    embedded: Embedding,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:

    def fork(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("eventstore.embedded.server.subprocess.Popen", fork)
        pid = embedded.kill()
        await until(lambda: str(error) in capsys.readouterr().out)
    await until(lambda: embedded.server.pid not in (None, pid))
    await embedded.end()


async def test_a_check_without_free_file_descriptors_is_retried(
    embedded: Embedding, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    def none_left(*_: Any, **__: Any) -> Any:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr("eventstore.embedded.server.socket.socket", none_left)
        embedded.kill()
        await until(lambda: "does not answer yet" in capsys.readouterr().out)
    await until(lambda: "redis is running again" in capsys.readouterr().out)
    await embedded.end()


async def test_a_server_that_ends_as_soon_as_it_serves_is_restarted(
    embedding, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has been started again by then, and may load."""
    embedded = embedding()
    ask, answers = log_server.check_server, [LogUnreachable("Redis does not answer")]

    async def check(settings: Settings) -> str:
        if answers:
            raise answers.pop()
        return await ask(settings)

    monkeypatch.setattr(log_server, "check_server", check)
    await embedded.start()
    printed = capsys.readouterr().out
    assert printed.index("does not answer; waiting for it") < printed.index("embedded Valkey")
    await embedded.end()


async def test_a_stop_request_between_two_attempts_prevents_the_next(
    embedding, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "RESTART_SECONDS", (60.0, 60.0))
    embedded = embedding()
    await embedded.start()
    embedded.kill()
    await until(lambda: "starting it again in" in capsys.readouterr().out)
    await embedded.end()
    assert embedded.server.pid is None


async def test_a_server_that_could_not_write_its_file_has_to_rewrite_it(
    embedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until that has succeeded; then it can be started again, although its file had a hole."""
    monkeypatch.setattr(log_server, "REWRITE_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(log_server, "REWRITE_POLL_SECONDS", 0.2)
    embedded = embedding()
    embedded.server.directory.mkdir(parents=True)
    binary = Path(surviving(str(find_binary()), embedded.server.directory))
    monkeypatch.setattr("eventstore.embedded.directory.find_binary", lambda: binary)
    await embedded.start()
    with redis.Redis.from_url(embedded.server.url) as client:

        def persistence() -> dict[str, Any]:
            return dict(client.info("persistence"))

        await written_in_part(embedded.server, client)
        await until(lambda: persistence()["aof_last_write_status"] == "err")
        await asyncio.sleep(2 * log_server.REWRITE_POLL_SECONDS)
        assert persistence()["aof_rewrites"] == 1, "the disk is still full"
        await write_again(embedded.server, client)
        await until(lambda: persistence()["aof_rewrites"] == 2)
        await until(lambda: not persistence()["aof_rewrite_in_progress"])
        keys = client.dbsize()
        before = embedded.kill()
        await until(lambda: embedded.server.pid not in (None, before))
        await until(lambda: embedded.server.ping() == "PONG")
        assert client.dbsize() == keys
    await embedded.end()
