"""A worker's slots: claims fill them, lives run in them, and an end frees them at once.

A worker claims when its inbox says that work waits, when a slot was freed, and now and then in
case a word was lost. After a reply that never came it asks to be told again what it holds. The
script books slots and never gives more than are free, whatever is believed here.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from msgspec import Struct

from eventstore.errors import LogError
from eventstore.language.agent_commands import Terminate
from eventstore.language.agents import Agent as State
from eventstore.language.agents import Stop
from eventstore.log.replies import Claimed, Outcome
from workers.runtime.agent_run import Running
from workers.runtime.backoff import Outage
from workers.runtime.worker_context import House, Wish

_FLAGS: Final = {stop.value.encode(): stop for stop in Stop}

log = structlog.get_logger("muster.slots")


class Notices(Struct, frozen=True):
    """What the worker wants to hear."""

    fenced: Callable[[], None]
    stuck: Callable[[], None]


class Slots:
    """The agents of one worker."""

    def __init__(self, house: House, pool: str, size: int, notices: Notices) -> None:
        self.running: dict[str, Running] = {}
        self.stuck = False
        self._house = house
        self._pool = pool
        self._size = size
        self._notices = notices
        self._work = asyncio.Event()
        self._again = False
        self._ended: set[tuple[str, int]] = set()
        """Lives that ended since the last claim was sent: (agent id, incarnation)."""
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, *, again: bool = False) -> None:
        """Claim soon. `again`: a reply may have been lost, so ask for what is held already."""
        self._again = self._again or again
        self._work.set()

    async def claim_forever(self) -> None:
        """Claim whenever woken, until cancelled."""
        outage = Outage("claim", worker_id=self._house.fence.worker_id)
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._claim(max(self._size - len(self.running), 0))
            except LogError as error:
                self.wake(again=True)
                await asyncio.sleep(outage.delay(error))
            else:
                outage.over()

    async def claim_left(self) -> None:
        """Take in what was claimed without our hearing of it. For a drain: claims no more."""
        self._again = True
        await self._claim(0)

    def ask_all(self, wish: Wish, reason: str) -> None:
        for running in tuple(self.running.values()):
            running.ask(wish, reason)

    def follow(self, agent_id: str, stop: Stop) -> None:
        """Do as an agent's termination flag says."""
        running = self.running.get(agent_id)
        if running is not None:
            running.ask_stop(stop)

    def activity(self) -> dict[str, str]:
        """Each agent's, for the heartbeat."""
        return {
            agent_id: "busy" if running.busy else "idle"
            for agent_id, running in self.running.items()
        }

    async def emptied(self, seconds: float | None = None) -> bool:
        """Wait until every life has ended (a stuck one's too); False if that takes longer."""
        clock = asyncio.get_running_loop().time
        deadline = None if seconds is None else clock() + seconds
        while self._tasks:
            left = None if deadline is None else deadline - clock()
            if left is not None and left <= 0:
                return False
            await asyncio.wait(self._tasks, timeout=left)
        return True

    # ---- claiming ------------------------------------------------------------------------------

    async def _claim(self, free: int) -> None:
        again, self._again = self._again, False
        if free == 0 and not again:
            return
        self._ended.clear()
        outcome, told = await self._house.log.claim(
            self._pool,
            self._house.fence,
            free,
            again=again,
            alone_limit=self._house.config.alone_limit,
        )
        if outcome is Outcome.FENCED:
            self._notices.fenced()
            return
        for claimed in told:
            self._take(claimed)

    def _take(self, claimed: Claimed) -> None:
        agent = claimed.agent
        held = self.running.get(agent.agent_id)
        if held is not None and held.incarnation >= agent.incarnation:
            return
        if (agent.agent_id, agent.incarnation) in self._ended:  # after the claim, before its reply
            return
        if not agent.held:
            self._spawn(self._withdraw(agent))
            return
        if held is not None:  # its end is in the log already, only the reply was lost
            held.ask(Wish.ABANDON)
        running = Running(self._house, claimed)
        self.running[agent.agent_id] = running
        self._spawn(self._live(running))

    async def _withdraw(self, agent: State) -> None:
        """End an agent that we were told of only because its end was asked for."""
        outage = Outage("withdraw", agent_id=agent.agent_id)
        while True:
            try:
                await self._house.log.act(
                    self._pool,
                    agent.agent_id,
                    Terminate(reason=agent.reason or "requested"),
                    self._house.origin,
                    incarnation=agent.incarnation,
                )
                return
            except LogError as error:
                await asyncio.sleep(outage.delay(error))
            except Exception:  # as in a life
                log.exception("agent.life_failed", agent_id=agent.agent_id)
                self._give_up()
                return

    # ---- lives ---------------------------------------------------------------------------------

    def _spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, running: Running) -> None:
        try:
            await running.live()
        except Exception:
            running.stuck = True  # a defect of ours: what became of the agent is not known
            log.exception("agent.life_failed", agent_id=running.agent_id)
        self._ended.add((running.agent_id, running.incarnation))
        if running.stuck:
            self._give_up()
        elif self.running.get(running.agent_id) is running:
            del self.running[running.agent_id]
            self._work.set()

    def _give_up(self) -> None:
        """A slot will not be free again: the worker is to leave, and to be reaped."""
        self.stuck = True
        self._notices.stuck()


def stops(flat: list[bytes]) -> Mapping[str, Stop]:
    """The termination flags as the lease's script tells them: ids and flags in turn.

    One that says nothing is passed over: whoever settles that agent sees that it is damaged.
    """
    told = zip(flat[::2], flat[1::2], strict=True)
    return {agent_id.decode(): _FLAGS[flag] for agent_id, flag in told if flag in _FLAGS}
