"""`Muster-Durability`: the level that a command requests, and the level that it reached.

A level that the server cannot give is refused before anything is written. What was written stays
written: if the level is not reached in time, the answer is a 202 that says `Muster-Durability:
accepted` and, in `Muster-Durability-Pending`, which level is missing and why. Repeating the request
with the same `Idempotency-Key`, or for the same end, answers with the level reached by then.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from eventstore.errors import CommandLost, LogError, Recovered
from eventstore.language.agents import TERMINAL
from eventstore.language.durability import Level
from eventstore.log.replies import Proof
from gateway.backend.backend import Backend
from gateway.backend.call import Asked, Call
from gateway.wire.answer import Answer
from gateway.wire.decoding import WaitPreference, wait_preference
from gateway.wire.problems import Kind, Problem
from gateway.wire.responses import AGENTS
from projector.queries.views import Views

DURABILITY_HEADER: Final = "Muster-Durability"
PENDING_HEADER: Final = "Muster-Durability-Pending"
POLL_SECONDS: Final = 0.02
VIEWS_WAIT_SECONDS: Final = 1.0

log = structlog.get_logger("muster.gateway")


class DurabilityRequest:
    """What one command requested; `start` once it is written, `headers` before it is answered."""

    def __init__(self, backend: Backend, level: Level, preference: WaitPreference) -> None:
        self.level = level
        self._backend = backend
        self.preference = preference
        waits = preference.seconds > 0
        self.deadline = asyncio.get_running_loop().time() + preference.seconds if waits else 0.0
        """Until when to wait for what the command starts; by the event loop's time.

        It counts from the request, not from its write."""
        self._confirmation: asyncio.Task[str] | None = None
        self.pending_reason = ""

    def start(self, *proofs: Proof | None) -> None:
        """Wait in the background until all that these proofs are of has reached the level.

        None: nothing was written.
        """
        if self.level is not Level.ACCEPTED:
            asked, usual = self.preference, self._backend.limits.durability_seconds
            seconds = asked.seconds if asked.explicit else usual
            deadline = asyncio.get_running_loop().time() + seconds
            confirmation = self._wait([proof for proof in proofs if proof is not None], deadline)
            self._confirmation = asyncio.create_task(confirmation, name="gateway.durability")
            self._confirmation.add_done_callback(_consume_exception)

    async def headers(self, agent_id: str = "") -> dict[str, str]:
        """The headers of the answer; where it is about an agent, also where that is found.

        Raises `Problem` for a command that is, or may be, lost.
        """
        if self._confirmation is not None:
            try:
                self.pending_reason = await self._confirmation
            except CommandLost as error:
                log.error("gateway.command_lost", pool=error.pool, seq=error.seq)
                detail = f"{error}; ask again once the log is in order"
                raise Problem(Kind.COMMAND_LOST, detail, agent_id=agent_id) from error
            except LogError as error:
                detail = f"it was accepted, but now: {error}; ask again to learn its outcome"
                raise Problem(Kind.OUTCOME_UNKNOWN, detail, agent_id=agent_id) from error
        reached = Level.ACCEPTED if self.pending_reason else self.level
        measures = self._backend.observations.measures
        measures.count("muster_commands_total", self.level, reached)
        headers: dict[str, str] = {DURABILITY_HEADER: reached}
        if self.preference.applied:
            headers["Preference-Applied"] = self.preference.applied
        if agent_id:
            headers["Location"] = f"{AGENTS}/{agent_id}"
        if self.pending_reason:
            reason = self.pending_reason.encode("ascii", "replace").decode().replace('"', "'")
            reason = "".join(c for c in reason if c.isprintable())
            headers[PENDING_HEADER] = f'{self.level.value}; reason="{reason}"'
        return headers

    async def response(
        self, body: object, status: int = 200, headers: Mapping[str, str] = {}, agent_id: str = ""
    ) -> Answer:
        """The answer, with 202 instead of 200 or 201 if the requested level is pending."""
        headers = {**headers, **await self.headers(agent_id)}
        status = 202 if self.pending_reason else status
        return Answer(body, status=status, headers=headers)

    async def _wait(self, proofs: Sequence[Proof], deadline: float) -> str:
        if self.level is Level.ARCHIVED:
            for proof in proofs:
                if why := await _wait_until_archived(self._backend, proof, deadline):
                    return why
            return ""
        capabilities = self._backend.capabilities
        method = capabilities.confirmation_method(self.level)
        try:
            return await capabilities.confirmations.confirm(method, proofs, deadline)
        except Recovered as error:
            pool = error.pool
        # What it has is in the log if that was rebuilt from behind it.
        head = await self._backend.log.head(pool)
        for proof in proofs:
            if proof.pool == pool and proof.generation and proof.seq > head.recovered_seq:
                raise CommandLost(pool, proof.seq)
        return "the log was recovered meanwhile"


def _consume_exception(task: "asyncio.Task[str]") -> None:
    """An error is not awaited if the answer became a problem before."""
    if not task.cancelled():
        task.exception()


async def durability_request(call: Call) -> DurabilityRequest:
    """What a request asks for. Raises `Problem` if the server cannot give it."""
    backend = call.backend
    capabilities = backend.capabilities
    if call.asked is None:
        headers = call.request.headers
        level = _level(headers.getall(DURABILITY_HEADER, ()), capabilities.default)
        preference = wait_preference(headers.getall("Prefer", ()), backend.limits)
        call.asked = Asked(level, preference)
    level, preference = call.asked.level, call.asked.preference
    if why := await capabilities.unavailable_reason(level):
        explicit = DURABILITY_HEADER in call.request.headers
        source = "asked for" if explicit else "the default of this gateway"
        detail = f"{level.value} ({source}) cannot be given by this Redis: {why}"
        raise Problem(Kind.DURABILITY_UNAVAILABLE, detail, field=DURABILITY_HEADER)
    if backend.waiters.full:
        preference = wait_preference(["respond-async"], backend.limits)
    return DurabilityRequest(backend, level, preference)


def _level(header_values: Sequence[str], default: Level) -> Level:
    if not header_values:
        return default
    try:
        [value] = header_values
        return Level(value.strip().lower())
    except ValueError:
        detail = f"{DURABILITY_HEADER}: one of {', '.join(Level)}"
        raise Problem(Kind.INVALID_REQUEST, detail, field=DURABILITY_HEADER) from None


async def _wait_until_archived(backend: Backend, proof: Proof, deadline: float) -> str:
    """Wait until what a proof is of is archived; else why it is not."""
    loop = asyncio.get_running_loop()
    while True:
        remaining_seconds = max(deadline - loop.time(), 0.0)
        try:
            async with backend.read_views() as views:
                if await _is_archived(views, proof, min(remaining_seconds, VIEWS_WAIT_SECONDS)):
                    return ""
            why = "the projector has not archived it in time"
        except Problem as problem:
            why = str(problem)
        if loop.time() >= deadline:
            return why
        await asyncio.sleep(POLL_SECONDS)


async def _is_archived(views: Views, proof: Proof, seconds: float) -> bool:
    """Whether it is archived. Raises `CommandLost` if something else is there instead."""
    if proof.seq and not await views.wait_for(proof.pool, proof.seq, timeout_seconds=seconds):
        return False
    match proof.kind:
        case "event" if proof.value:
            events = await views.events(proof.pool, after_seq=proof.seq - 1, limit=1)
            if events and events[0].event_id != proof.value:
                raise CommandLost(proof.pool, proof.seq)
            return bool(events)
        case "operation":
            return await views.agent(proof.value, proof.pool) is not None
        case "ending":
            row = await views.agent(proof.subject, proof.pool)
            return row is not None and (bool(row.stop) or row.status in TERMINAL)
        case _:
            return True
