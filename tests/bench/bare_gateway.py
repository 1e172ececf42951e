"""What accepting a spawn is made of: a bare aiohttp handler, and one raw script call for many.

    python -m tests.bench.bare_gateway REDIS_URL PORT

The script appends an event and a command and writes a hash for each request: the same appends as
`agent.requested` makes, without any check. The requests that come while a call is under way go
into the next one.
"""

import asyncio
import sys
import uuid

import msgspec
import uvloop
from aiohttp import web

from eventstore.connection.clients import Client

SCRIPT = """#!lua
for i = 1, #ARGV, 3 do
  local id = ARGV[i]
  redis.call('XADD', KEYS[1], '*', 'type', 'agent.requested', 'version', '1', 'seq', '1',
    'event_id', ARGV[i + 1], 'subject', id, 'incarnation', '1', 'worker_id', '', 'epoch', '',
    'correlation_id', '', 'causation_id', '', 'traceparent', '', 'actor', 'api', 'ts', '1',
    'data', ARGV[i + 2])
  redis.call('XADD', KEYS[2], '*', 'type', 'agent.spawn', 'agent_id', id, 'incarnation', '1',
    'reason', 'requested')
  redis.call('HSET', 'agent:{p}:' .. id, 'status', 'pending', 'pool_name', 'p', 'role_type', 'r',
    'project_id', 'bench', 'process_id', '', 'version', '1', 'incarnation', '1')
end
return #ARGV / 3
"""
KEYS = ("pool:{p}:events", "pool:{p}:commands")
BATCH_MAX = 100


class Body(msgspec.Struct):
    project_id: str
    role_type: str
    pool_name: str


class Accepted(msgspec.Struct):
    agent_id: str
    status: str = "pending"


class Appender:
    """Appends what is asked for while a call is under way with the next call."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._waiting: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    def append(self, agent_id: str, data: bytes) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((agent_id, data, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send())
        return done

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            arguments: list[str | bytes] = []
            for agent_id, data, _ in batch:
                arguments += (agent_id, str(uuid.uuid4()), data)
            await self._client.execute_command("EVAL", SCRIPT, 2, *KEYS, *arguments)
            for *_, done in batch:
                done.set_result(None)


async def serve(redis_url: str, port: int) -> None:
    async with Client(redis_url) as client:
        appender = Appender(client)

        async def spawn(request: web.Request) -> web.Response:
            body = msgspec.json.decode(await request.read(), type=Body)
            agent_id = str(uuid.uuid4())
            await appender.append(agent_id, msgspec.json.encode(body))
            answer = msgspec.json.encode(Accepted(agent_id))
            return web.Response(body=answer, status=202, content_type="application/json")

        app = web.Application()
        app.router.add_post("/api/v1/agents/spawn", spawn)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2])))
