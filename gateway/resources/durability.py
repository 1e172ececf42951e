"""`Muster-Durability`: how safe a command is to be when it is answered, and how safe it was.

A level that the server cannot give is refused before anything is written. What was written stays
written: where the level is not reached in time, the answer is a 202 that says `Muster-Durability:
accepted` and, in `Muster-Durability-Pending`, what is missing and why. Asking again with the same
`Idempotency-Key`, or for the same end, answers with the level reached by then.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from aiohttp import web

from eventstore.errors import CommandLost, LogError, Recovered
from eventstore.language.agents import TERMINAL
from eventstore.language.durability import Level
from eventstore.log.replies import Proof
from gateway.backend.app_keys import BACKEND
from gateway.backend.backend import Backend
from gateway.wire.preferences import Patience
from gateway.wire.problems import Kind, Problem
from projector.queries.views import Views

HEADER: Final = "Muster-Durability"
PENDING: Final = "Muster-Durability-Pending"
POLL_SECONDS: Final = 0.02
LOOK_SECONDS: Final = 1.0
LATE: Final = "the projector has not archived it in time"

log = structlog.get_logger()


class Assurance:
    """What one command asked for; `begin` once it is written, `headers` before it is answered."""

    def __init__(self, backend: Backend, level: Level, seconds: float) -> None:
        self.level = level
        self._backend = backend
        self._seconds = seconds
        self._waiting: asyncio.Task[str] | None = None
        self.missing = ""

    def begin(self, *proofs: Proof) -> None:
        """What was written stands behind these proofs: wait for the level, beside all else."""
        if self.level is not Level.ACCEPTED:
            deadline = asyncio.get_running_loop().time() + self._seconds
            waiting = self._wait(proofs, deadline)
            self._waiting = asyncio.create_task(waiting, name="gateway.durability")
            self._waiting.add_done_callback(_take_note)

    async def headers(self, agent_id: str = "") -> dict[str, str]:
        """What the answer says of it. Raises `Problem` for a command that was, or may be, lost."""
        if self._waiting is not None:
            try:
                self.missing = await self._waiting
            except CommandLost as error:
                log.error("gateway.command_lost", pool=error.pool, seq=error.seq)
                detail = f"{error}; ask again once the log is in order"
                raise Problem(Kind.COMMAND_LOST, detail, agent_id=agent_id) from error
            except LogError as error:
                detail = f"it was accepted, but now: {error}; ask again to learn what became of it"
                raise Problem(Kind.OUTCOME_UNKNOWN, detail, agent_id=agent_id) from error
        reached = Level.ACCEPTED if self.missing else self.level
        self._backend.observations.assured[self.level.value, reached.value] += 1
        if not self.missing:
            return {HEADER: reached.value}
        reason = self.missing.encode("ascii", "replace").decode().replace('"', "'")
        reason = "".join(c for c in reason if c.isprintable())
        return {HEADER: reached.value, PENDING: f'{self.level.value}; reason="{reason}"'}

    def dressed(self, response: web.Response) -> web.Response:
        """The answer, with the status that is left to it: done is done at the level asked for."""
        if self.missing and response.status < 202:
            response.set_status(202)
        return response

    async def _wait(self, proofs: Sequence[Proof], deadline: float) -> str:
        if self.level is Level.ARCHIVED:
            return await archived(self._backend, proofs, deadline)
        capabilities = self._backend.capabilities
        how = capabilities.how(self.level)
        try:
            return await capabilities.confirmations.confirm(how, proofs, deadline)
        except Recovered as error:
            return await self._after_recovery(error.pool, proofs)

    async def _after_recovery(self, pool: str, proofs: Sequence[Proof]) -> str:
        """It stands if the log was rebuilt from a point behind it. Raises `CommandLost`."""
        stand = await self._backend.log.stand(pool)
        for proof in proofs:
            if proof.pool == pool and proof.generation and proof.seq > stand.recovered_seq:
                raise CommandLost(pool, proof.seq)
        return "the log was recovered meanwhile"


def _take_note(done: "asyncio.Task[str]") -> None:
    """Nobody may be left to hear of an error, where the answer became a problem."""
    if not done.cancelled():
        done.exception()


async def assurance_of(request: web.Request, patient: Patience) -> Assurance:
    """What a request asks for, if the server can give it. Raises `Problem` where it cannot."""
    backend = request.app[BACKEND]
    capabilities = backend.capabilities
    level = _level(request.headers.getall(HEADER, ()), capabilities.default)
    if why := await capabilities.lacking(level):
        asked = HEADER in request.headers
        whose = "asked for" if asked else "the default of this gateway"
        detail = f"{level.value} ({whose}) cannot be given by this Redis: {why}"
        raise Problem(Kind.DURABILITY_UNAVAILABLE, detail, field=HEADER)
    seconds = patient.seconds if patient.waits else backend.limits.durability_seconds
    return Assurance(backend, level, seconds)


def _level(said: Sequence[str], default: Level) -> Level:
    if not said:
        return default
    try:
        [value] = said
        return Level(value.strip().lower())
    except ValueError:
        detail = f"{HEADER}: one of {', '.join(Level)}"
        raise Problem(Kind.INVALID_REQUEST, detail, field=HEADER) from None


async def archived(backend: Backend, proofs: Sequence[Proof], deadline: float) -> str:
    """Wait until the archive holds all that the proofs tell of; else why it does not."""
    for proof in proofs:
        if why := await _archived(backend, proof, deadline):
            return why
    return ""


async def _archived(backend: Backend, proof: Proof, deadline: float) -> str:
    loop = asyncio.get_running_loop()
    why = LATE
    while True:
        left = max(deadline - loop.time(), 0.0)
        try:
            async with backend.reading() as views:
                if await _holds(views, proof, min(left, LOOK_SECONDS)):
                    return ""
            why = LATE
        except Problem as problem:
            why = str(problem)
        if loop.time() >= deadline:
            return why
        await asyncio.sleep(POLL_SECONDS)


async def _holds(views: Views, proof: Proof, seconds: float) -> bool:
    """Whether the archive has it. Raises `CommandLost` where it has something else instead."""
    if proof.seq and not await views.wait_for(proof.pool, proof.seq, timeout_seconds=seconds):
        return False
    match proof.kind:
        case "event" if proof.value:
            found = await views.events(proof.pool, after_seq=proof.seq - 1, limit=1)
            if found and found[0].event_id != proof.value:
                raise CommandLost(proof.pool, proof.seq)
            return bool(found)
        case "operation":
            return await views.agent(proof.value, proof.pool) is not None
        case "ending":
            row = await views.agent(proof.subject, proof.pool)
            return row is not None and (bool(row.stop) or row.status in TERMINAL)
        case _:
            return True
