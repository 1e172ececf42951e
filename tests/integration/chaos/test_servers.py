"""The servers that the other tests stand on are what they say they are."""

import asyncio

import pytest
import redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers import RedisServer, ValkeyServer


def version(url: str) -> tuple[str, str]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        info = client.info("server")
        return info.get("server_name", "redis"), info["redis_version"]


def fill(client: "redis.Redis", *, megabytes: int) -> None:
    for n in range(megabytes):
        client.set(f"key{n}", "x" * 1_000_000)


@pytest.mark.parametrize("round_", [1, 2])
def test_a_redis_url_starts_empty(any_redis_url: str, round_: int):
    """What an earlier test left must not reach the next."""
    with redis.Redis.from_url(any_redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", round_)


def test_both_kinds_of_server_are_tested(request: pytest.FixtureRequest, redis_server):
    """Valkey is what we embed; the system's Redis is the floor of features."""
    valkey, other = redis_server(ValkeyServer), redis_server(RedisServer)
    assert version(valkey.url)[0] == "valkey"
    assert version(other.url)[0] == "redis"


@pytest.mark.parametrize("kind", [ValkeyServer, RedisServer])
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
def test_with_fsync_always_nothing_is_lost_by_kill9(redis_server, kind, tcp: bool):
    """Invariant 8 is tested with this."""
    server = redis_server(kind, appendfsync="always", tcp=tcp)
    with server.client() as client:
        client.set("stored", "yes")
    server.kill9()
    server.start()
    with server.client() as client:
        assert client.get("stored") == b"yes"


def test_a_server_at_its_memory_limit_refuses_writes(redis_server):
    """Admission control is tested with this."""
    server = redis_server(maxmemory="8mb")
    with server.client() as client, pytest.raises(redis.OutOfMemoryError):
        fill(client, megabytes=10)


async def test_a_database_starts_empty(database_url: str):
    """Both dialects of the views."""
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("create table t (n integer)"))
        await connection.execute(text("insert into t values (1)"))
        assert (await connection.execute(text("select count(*) from t"))).scalar() == 1
    await engine.dispose()


async def test_pgbouncer_shares_few_connections_among_many(pgbouncer_url: str, postgres_url: str):
    """In transaction mode thirty clients at once fit on ten connections of the server."""
    direct = create_async_engine(postgres_url)
    engine = create_async_engine(
        pgbouncer_url, pool_size=30, connect_args={"prepare_threshold": None}
    )

    async def ask(n: int) -> object:
        async with engine.connect() as connection:
            return (await connection.execute(text(f"select {n}, pg_sleep(0.02)"))).scalar()

    assert await asyncio.gather(*(ask(n) for n in range(30))) == list(range(30))
    async with direct.connect() as connection:
        query = "select count(*) from pg_stat_activity where datname = current_database()"
        assert (await connection.execute(text(query))).scalar_one() <= 11
    await engine.dispose()
    await direct.dispose()
