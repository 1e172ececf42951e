"""A Redis whose files cannot grow for a while, as on a disk that is full."""

import resource
import time
from pathlib import Path
from typing import Protocol

import redis

from eventstore.ids import new_id
from tests.servers import RedisLikeServer
from tests.waiting import until

PIECE = "x" * 3000


class Running(Protocol):
    """A server's process and folder."""

    directory: Path

    @property
    def pid(self) -> int | None: ...


def surviving(binary: str, folder: Path) -> str:
    """A program that runs this server so that a write beyond the limit fails, and does not kill."""
    wrapper = folder / "server.sh"
    wrapper.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {binary} \"$@\"\n")
    wrapper.chmod(0o755)
    return str(wrapper)


def bounded(kind: type[RedisLikeServer]) -> type[RedisLikeServer]:
    """A server for which `limit` works."""

    class Bounded(kind):  # type: ignore[misc,valid-type]
        def binary(self) -> str:
            return surviving(super().binary(), Path(self.directory))

    return Bounded


def limit(server: Running, size: int) -> None:
    """To how many bytes its files may grow."""
    assert server.pid is not None
    _, most = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, most))


def rewritten(server: Running, client: redis.Redis) -> Path:
    """The file to which it appends since a rewrite, with something in it."""
    before = set((server.directory / "appendonlydir").iterdir())
    client.bgrewriteaof()
    client.set("first", PIECE)
    deadline = time.monotonic() + 10
    while client.info("persistence")["aof_rewrite_in_progress"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    [file] = set((server.directory / "appendonlydir").glob("*.incr.aof")) - before
    return file


async def written_in_part(server: Running, client: redis.Redis) -> None:
    """Fill the file until no write fits."""
    limit(server, rewritten(server, client).stat().st_size + 4000)
    await until(lambda: not accepts(client))


async def write_again(server: Running, client: redis.Redis) -> None:
    limit(server, resource.RLIM_INFINITY)
    await until(lambda: accepts(client))


def accepts(client: redis.Redis) -> bool:
    """Whether it accepts one more write."""
    try:
        return bool(client.set(new_id(), PIECE))
    except redis.ResponseError:
        return False
