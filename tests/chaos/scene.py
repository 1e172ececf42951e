"""A scene for one crash: a pool with its views, parts that work, and one that will die.

The parts that work run within the test's process (workers are forked, as always); the one that will
die has a process of its own, or is a worker, forked by a zygote that knows the place.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from msgspec.structs import replace

from eventstore.language import workers
from eventstore.language.agent_commands import Terminate
from eventstore.retention import Retention
from gateway.options import GatewayOptions, Limits
from projector.rebuild.rebuild import RebuildOptions
from projector.recovery.recovery import RecoveryOptions
from projector.service.options import ProjectorOptions
from tests.chaos import crashing
from tests.chaos.judge import judge
from tests.chaos.judging import traces
from tests.chaos.judging.commands import Command
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.traces import AgentTrace
from tests.forked import Forked
from tests.integration.projector.stage import POOL, Stage, open_stage
from tests.pools import ORIGIN, TestPool, raw_events
from tests.waiting import until
from workers.launch import zygote_messages
from workers.supervisor.options import SupervisorOptions
from workers.supervisor.supervisor import Supervisor

ROOT: Final = Path(__file__).parents[2]
QUICK: Final[dict[str, Any]] = {
    "lease_seconds": 2.0,
    "renew_seconds": 0.3,
    "stop_grace_seconds": 1.0,
    "drain_seconds": 4.0,
    "backoff_min_seconds": 0.05,
    "backoff_max_seconds": 0.1,
}
BRIEF: Final = Retention(events=2, age_ms=10**14)
"""All but two events leave Redis as soon as they are archived."""
AGENT: Final = """
import asyncio, json, time
from pathlib import Path
from muster import Agent

class Steady(Agent):
    async def run(self, context):
        token = context.fencing_token
        path = Path({folder!r}) / f"{{context.agent_id}}.{{token.seq}}.jsonl"
        first = {{
            "pool": context.pool_name,
            "agent_id": context.agent_id,
            "incarnation": context.incarnation,
            "token": str(token),
        }}
        with path.open("w", buffering=1) as trace:
            while True:
                at = time.clock_gettime(time.CLOCK_BOOTTIME)
                print(json.dumps({{**first, "at": at}}), file=trace)
                await asyncio.sleep(0.1)

    async def stop(self, context):
        await asyncio.sleep(context.input["stops_for"])

class Starting(Steady):
    async def start(self, context):
        pass
"""
"""It writes down when it runs."""
DEADLY_ZYGOTE: Final = """
import sys
sys.path.insert(0, {root!r})
from tests.chaos.places import arm
for place, token in {tokens!r}.items():
    arm(place, token)
from workers.launch.zygote import main
sys.exit(main(sys.argv[1:]))
"""


class Scene:
    """One pool, and what was asked of it."""

    def __init__(self, stage: Stage, pool: TestPool, folder: Path) -> None:
        self.stage, self.pool, self.folder = stage, pool, folder
        self.commands: list[Command] = []
        self.agent = "Steady"
        """`Steady` is started by its claim, `Starting` in a step of its own."""
        self._supervisors: list[Supervisor] = []
        self._processes: list[Forked] = []
        (folder / "traces").mkdir()
        (folder / "steady.py").write_text(AGENT.format(folder=str(folder / "traces")))

    # ---- what is asked -----------------------------------------------------------------------

    async def spawn(self, count: int = 3, *, stops_for: float = 0) -> list[str]:
        agent_input = msgspec.Raw(msgspec.json.encode({"stops_for": stops_for}))
        submitted = [await self.pool.spawn(input=agent_input) for _ in range(count)]
        ids = [one.agent_id for one in submitted]
        self.commands += [Command("spawn", pool=POOL, agent_id=name) for name in ids]
        return ids

    async def terminate(self, *names: str) -> None:
        for name in names:
            await self.stage.act(self.pool, name, Terminate())
            self.commands.append(Command("terminate", pool=POOL, agent_id=name))

    async def running(self, count: int) -> None:
        """Wait until exactly so many agents are live, and all of them run."""

        async def settled() -> bool:
            return await self.statuses() == ({"running": count} if count else {})

        await until(settled, timeout=15, what=f"{count} agents running")

    async def recorded(self, kind: str, count: int = 1) -> None:
        """Wait until the log has so many events of a type."""
        await until(lambda: self.events().count(kind) == count, timeout=15, what=kind)

    async def survived(self, names: Sequence[str], losses: int) -> None:
        """So many workers were lost, and these agents run again; then end them."""
        await self.recorded("worker.lost", losses)
        await self.running(len(names))
        await self.at_rest()
        await self.terminate(*names)
        await self.running(0)

    async def statuses(self) -> dict[str, int]:
        found = [await self.stage.log.agent(POOL, name) for name in await self._live()]
        return Counter(agent.status.value for agent in found if agent)

    async def _live(self) -> list[str]:
        return await self.stage.log.live(POOL)

    async def worker_pid(self) -> int:
        """The pid of the only live worker."""
        return (await self._worker()).pid

    async def order_drain(self) -> None:
        """Order the drain of the only live worker: one that is only signalled counts as lost."""
        name = (await self._worker()).worker_id
        await self.stage.log.act_on_worker(POOL, name, workers.Drain(reason="t"), ORIGIN)

    async def _worker(self) -> workers.Worker:
        [observed] = [o for o in (await self.stage.log.survey(POOL)).workers if o.worker.alive]
        return observed.worker

    # ---- parts that work ---------------------------------------------------------------------

    def supervisor_options(self) -> SupervisorOptions:
        return SupervisorOptions(
            redis_url=self.stage.redis_url,
            host="h1",
            roles={"developer": f"steady:{self.agent}"},
            app_dir=str(self.folder),
            log_dir=str(self.folder / "logs"),
            poll_seconds=0.2,
            shutdown_seconds=5.0,
        )

    async def supervise(self) -> Supervisor:
        supervisor = Supervisor(self.supervisor_options())
        self._supervisors.append(supervisor)
        await supervisor.start()
        return supervisor

    def gateway_options(self) -> GatewayOptions:
        return GatewayOptions(
            redis_url=self.stage.redis_url,
            database_url=self.stage.database_url,
            roles=("developer",),
            port=0,
            limits=Limits(wait_default=0.0),
        )

    def projector_options(self) -> ProjectorOptions:
        return ProjectorOptions(
            redis_url=self.stage.redis_url,
            database_url=self.stage.database_url,
            lease_seconds=1.0,
            heartbeat_seconds=0.05,
            audit_seconds=0.2,
            retention=BRIEF,
            trim_seconds=0.1,
        )

    def rebuild_options(self) -> RebuildOptions:
        return RebuildOptions(
            redis_url=self.stage.redis_url, database_url=self.stage.database_url, lease_seconds=1.0
        )

    def recovery_options(self) -> RecoveryOptions:
        return RecoveryOptions(
            redis_url=self.stage.redis_url, database_url=self.stage.database_url, lease_seconds=1.0
        )

    # ---- one that is to die ------------------------------------------------------------------

    def _token(self, place: str) -> Path:
        return self.folder / f"{place}.token"

    def arm(self, place: str) -> None:
        """From now on the process that reaches the place dies."""
        self._token(place).touch()

    async def doomed(self, place: str, part: str) -> Forked:
        """Start a part in a process that dies at a place, once that is armed."""
        options = {
            "gateway": self.gateway_options,
            "supervisor": self.supervisor_options,
            "projector": self.projector_options,
            "replay": self.rebuild_options,
            "recover": self.recovery_options,
        }[part]()
        process = Forked(crashing.doomed, place, str(self._token(place)), part, options)
        self._processes.append(process)
        return process

    def doom_workers(self, places: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Let workers of the next zygote die at these places, one at each that is armed."""
        tokens = {place: str(self._token(place)) for place in places}
        code = DEADLY_ZYGOTE.format(root=str(ROOT), tokens=tokens)
        monkeypatch.setattr(zygote_messages, "COMMAND", code)

    async def died(self, place: str, process: Forked | None = None) -> None:
        """Wait until a process has reached the place and is dead."""
        token = self._token(place)
        await until(lambda: not token.exists(), timeout=15, what=f"{place} was reached")
        if process is not None:
            code = await asyncio.to_thread(process.wait, 5)
            assert code == -signal.SIGKILL

    # ---- how it ends -------------------------------------------------------------------------

    async def at_rest(self) -> None:
        """All is done, and the judge has nothing to say about any of it."""
        offences: list[Offence] = []
        seen: list[AgentTrace] = []

        async def quiet() -> bool:
            seen[:] = traces.read(self.folder / "traces")
            offences[:] = await asyncio.to_thread(
                judge,
                self.stage.redis_url,
                views=self.stage.database_url,
                acknowledged=self.commands,
                traces=seen,
                at_rest=True,
            )
            return not offences and {one.agent_id for one in seen} >= set(await self._live())

        try:
            await until(quiet, timeout=8, interval=0.1)
        except AssertionError:
            said = "\n".join(map(str, offences)) or "an agent lives that has left no trace"
            raise AssertionError(said) from None

    async def judged(self) -> None:
        """The judge has nothing to say; workers that the test plays are left as they are."""
        offences = await asyncio.to_thread(
            judge, self.stage.redis_url, views=self.stage.database_url, acknowledged=self.commands
        )
        assert [str(offence) for offence in offences] == [], offences

    def events(self) -> list[str]:
        return [event["type"] for event in raw_events(self.stage.redis_url)]

    async def close(self) -> None:
        for supervisor in self._supervisors:
            await supervisor.stop()
        for process in self._processes:
            process.end()


@asynccontextmanager
async def open_scene(
    redis_url: str, folder: Path, *, projecting: bool = True, **config: Any
) -> AsyncIterator[Scene]:
    database = f"sqlite+aiosqlite:///{folder / 'views.db'}"
    async with open_stage(redis_url, database) as stage:
        # An agent of `play` spends a limit that the pool once had; all others restart.
        scene = Scene(stage, await stage.pool(**QUICK, **config, restart_limit=0), folder)
        unlimited = partial(replace, restart_limit=None)
        await stage.catalogue.change_pool(POOL, unlimited, ORIGIN)
        projector = stage.projector()
        if projecting:
            await projector.start()
        try:
            yield scene
        finally:
            await scene.close()
            await projector.stop()
