"""The prefix is in front of every key, and refusals of an access list name key and command."""

import pytest
import redis

from eventstore.connection.clients import Client
from eventstore.errors import LogError
from eventstore.keys import CATALOGUE, Keys
from eventstore.language.pool_config import PoolConfig
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.key_names import rename_old_keys
from eventstore.log.log import Log
from eventstore.log.reader import Reader
from tests.pools import ORIGIN, TestPool


@pytest.mark.parametrize("prefix", ["x:", "pool:", "my*pool:", ""])
async def test_every_key_begins_with_the_prefix(any_redis_url: str, prefix: str) -> None:
    async with Client(any_redis_url) as client:
        log = Log(client, Keys(prefix))
        catalogue = CatalogueLog(log, Reader(any_redis_url))
        await catalogue.create()
        await catalogue.create_pool("p", "developer", PoolConfig(), ORIGIN)
        await TestPool(log, "p").spawn()
        await catalogue.join_host("h", "name", 1, ORIGIN)
        await catalogue.close()
        with redis.Redis.from_url(any_redis_url) as plain:
            found = [key.decode() for key in plain.scan_iter()]
        assert f"{prefix}{{{prefix}muster:catalogue}}:meta" in found
        assert all(key.startswith(prefix) for key in found)


async def test_keys_of_an_older_version_are_renamed_once(any_redis_url: str) -> None:
    keys = Keys("x:")
    meta = keys.pool(CATALOGUE, "meta")
    async with Client(any_redis_url) as client:
        await Log(client, keys).create_catalogue()
        with redis.Redis.from_url(any_redis_url) as plain:
            plain.rename(meta, "{x:muster:catalogue}:meta")
            plain.set("{x:muster:catalogue}:snapshot", "old")
            for _ in range(2):
                await rename_old_keys(client, keys)
                assert plain.hget(meta, "seq") is not None
                assert plain.get(keys.pool(CATALOGUE, "snapshot")) == b"old"
                assert plain.keys("{x:*") == []
            plain.hset("{x:muster:catalogue}:meta", "seq", "9")  # of a process that was not ended
            await rename_old_keys(client, keys)
            assert plain.hget(meta, "seq") != b"9"
        await rename_old_keys(client, Keys())


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (("~x:*", "+@all", "-xadd"), r"let this login run XADD on x:muster:catalogue"),
        (
            ("~x:muster:*", "~x:{x:*", "+@all"),
            r"run HMGET x:pool:\{p\}:meta",
        ),
        (("~x:*", "+@all", "-hmget"), r"HMGET (on )?x:\{x:muster:catalogue\}:meta"),
    ],
    ids=["a command", "a key", "both"],
)
async def test_a_refusal_names_key_and_command(
    any_redis_url: str, rules: tuple[str, ...], why: str
) -> None:
    with redis.Redis.from_url(any_redis_url) as plain:
        plain.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", *rules)
    url = any_redis_url.replace("redis://", "redis://u:p@")
    async with Client(url) as client:
        log = Log(client, Keys("x:"))
        catalogue = CatalogueLog(log, Reader(url))
        with pytest.raises(LogError, match=why):
            await _use(log, catalogue)
        await catalogue.close()
    with redis.Redis.from_url(any_redis_url) as plain:
        plain.execute_command("ACL", "DELUSER", "u")


async def _use(log: Log, catalogue: CatalogueLog) -> None:
    await catalogue.create()
    await catalogue.join_host("h", "name", 1, ORIGIN)
    await log.head("p")
    await log.initialise("p")
