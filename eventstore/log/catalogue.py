"""The catalogue's log: pools created, changed and deleted; hosts joined and left; tokens made.

Every process folds and follows it. The oldest events are trimmed once they are archived; a snapshot
of their fold is stored in the same step, from which a reader goes on. A change is committed only if
its subject's version is unchanged. A pool's own keys are initialised from the catalogue,
idempotently.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from eventstore.errors import LogMissing, OutcomeUnknown, UnknownEvent, Unreadable
from eventstore.keys import CATALOGUE
from eventstore.language import catalogue as pools
from eventstore.language import events, tokens
from eventstore.language.catalogue import Catalogue, Pool
from eventstore.language.pool_config import PoolConfig, write_config
from eventstore.language.tokens import Token
from eventstore.log.commit_retry import Attempts, reraise_unknown
from eventstore.log.log import Log, proof_of
from eventstore.log.reader import Entry, Reader
from eventstore.log.replies import Outcome, Proof
from eventstore.steps import clauses
from eventstore.steps.step import Origin

UNKNOWN_DECLARATION: Final = "recovered"
"""In place of the declaration last applied to a pool: the next one is recorded as applied."""

UNKNOWN_RESULT: Final = "the change was written, but its result could not be created or read"


class ChangeResult(Struct, frozen=True):
    """DONE, ALREADY (nothing to change), CONFLICT (it exists, or has live agents) or ABSENT.

    `proof`: identifies the change, or for ALREADY the log that has it.
    """

    outcome: Outcome
    catalogue: Catalogue
    proof: Proof | None = None


Decision = tuple[Outcome, events.AnyBody | None]


class CatalogueLog:
    """Reads and changes the catalogue. `state` is the fold of what was read so far.

    `invalidated`: the catalogue was recovered, so some folded events may be lost; or events that
    were not folded were trimmed. The next `refresh` folds it again from the snapshot; until then
    `state` is unchanged.
    """

    def __init__(self, log: Log, reader: Reader) -> None:
        self._log = log
        self._reader = reader
        self.state = Catalogue()
        self.invalidated = False
        self.loaded = False
        """Whether `state` is what was read, however long ago."""
        self._applied = 0

    async def create(self) -> Catalogue:
        """Create the catalogue if there is none, and read it: see `Log.create_catalogue`."""
        await self._log.create_catalogue()
        return await self.refresh()

    async def start(self) -> Catalogue:
        """Read the catalogue. Raises `LogMissing` if there is none."""
        if not (await self._log.head(CATALOGUE)).generation:
            raise LogMissing(CATALOGUE)
        return await self.refresh()

    async def close(self) -> None:
        await self._reader.close()

    async def refresh(self) -> Catalogue:
        """Read and fold the entries that were added since the last read, without waiting."""
        while not self.invalidated:
            entries = await self._entries_after(self.state)
            if not entries:
                self.loaded = True
                return self.state
            if _is_behind(self.state, entries):
                break
            self.apply(entries)
        rebuilt = await self._log.catalogue_snapshot()  # `state` is replaced when all is folded
        applied = -1
        while (entries := await self._entries_after(rebuilt)) or applied != self._applied:
            applied = self._applied  # entries that `apply` got meanwhile may come after this read
            if _is_behind(rebuilt, entries):  # more was trimmed since
                rebuilt = await self._later_snapshot(rebuilt)
                continue
            for entry in entries:
                rebuilt = _fold(rebuilt, entry)
        self.state, self.invalidated, self.loaded = rebuilt, False, True
        return self.state

    async def _later_snapshot(self, state: Catalogue) -> Catalogue:
        """Raises `Unreadable` if there is none: nothing may be left out."""
        found = await self._log.catalogue_snapshot()
        if found.seq <= state.seq:
            reason = "it is gone, and the stream starts later; restart the projector"
            raise Unreadable("snapshot", "of the catalogue", reason)
        return found

    async def _entries_after(self, state: Catalogue) -> list[Entry]:
        return await self._reader.range(self._log.keys.catalogue, f"({state.stream_id}")

    def apply(self, entries: list[Entry]) -> Catalogue:
        """Fold entries that a follower has read, up to the first that raises `UnknownEvent`."""
        self._applied += 1
        state = pools.copy_of(self.state)
        try:
            for entry in entries:
                if state.seq and _is_behind(state, [entry]):
                    self.invalidated = True
                    break
                body = events.decode_entry(*entry).body
                if isinstance(body, events.LogRecovered) and 0 < body.from_seq < state.seq:
                    self.invalidated = True
                state = _fold(state, entry)
        finally:
            self.state = state
        return state

    async def create_pool(
        self, name: str, role_type: str, config: PoolConfig, origin: Origin
    ) -> ChangeResult:
        """Create a pool and its keys. CONFLICT if the name is used."""

        def decide(state: Catalogue) -> Decision:
            found = state.live_pool(name)
            if found is None:
                return Outcome.DONE, events.PoolCreated(role_type, config=write_config(config))
            same = (found.role_type, found.config) == (role_type, config)
            return Outcome.ALREADY if same else Outcome.CONFLICT, None

        changed = await self._change(name, decide, origin)
        if changed.outcome is Outcome.ALREADY:
            return replace(changed, outcome=Outcome.CONFLICT)
        if changed.outcome is Outcome.DONE:
            with reraise_unknown(OutcomeUnknown(UNKNOWN_RESULT)):
                await self._log.initialise(name)
        return changed

    async def change_pool(
        self, name: str, change: Callable[[PoolConfig], PoolConfig], origin: Origin
    ) -> ChangeResult:
        """Change a pool's configuration, starting from the current one. ABSENT without a pool."""

        def decide(state: Catalogue) -> Decision:
            pool = state.live_pool(name)
            if pool is None:
                return Outcome.ABSENT, None
            config = change(pool.config)
            if pool.config == config:
                return Outcome.ALREADY, None
            return Outcome.DONE, events.PoolChanged(config=write_config(config, pool.unknown))

        return await self._change(name, decide, origin)

    async def change_replacement(
        self, name: str, body: events.ReplacementBody, origin: Origin, *, replacement_id: str = ""
    ) -> ChangeResult:
        """Start to replace a pool's workers (CONFLICT while that runs), or end that.

        `replacement_id`: end only this one. ALREADY if it, or any, does not run.
        """

        def decide(state: Catalogue) -> Decision:
            pool = state.live_pool(name)
            if pool is None:
                return Outcome.ABSENT, None
            running = pool.replacement if pool.replacement and pool.replacement.runs else None
            if isinstance(body, events.PoolReplacementStarted):
                if running is None:
                    return Outcome.DONE, body
                return Outcome.ALREADY if running.epoch == body.epoch else Outcome.CONFLICT, None
            is_that = running is not None and replacement_id in ("", running.replacement_id)
            return (Outcome.DONE, body) if is_that else (Outcome.ALREADY, None)

        return await self._change(name, decide, origin)

    async def close_pool(self, pool: Pool, origin: Origin, *, vacant: bool) -> bool:
        """Let a pool accept no more spawns. `vacant`: only if it has no live agents, else False."""
        step = self._log.step(pool.pool_name, origin)
        if vacant:
            step.check(clauses.PoolVacant())
        step.write(clauses.SetMeta("closed", pool.created_seq))
        return (await self._log.commit(step)).outcome is Outcome.DONE

    async def delete_pool(self, pool: Pool, origin: Origin, *, reason: str) -> ChangeResult:
        """Delete a pool that was closed before. ABSENT if another pool has its name by now."""

        def decide(state: Catalogue) -> Decision:
            found = state.live_pool(pool.pool_name)
            if found is None or found.created_seq != pool.created_seq:
                return Outcome.ABSENT, None
            return Outcome.DONE, events.PoolDeleted(reason=reason)

        return await self._change(pool.pool_name, decide, origin)

    async def join_host(self, host: str, hostname: str, pid: int, origin: Origin) -> ChangeResult:
        """Offer a host for workers."""
        body = events.HostJoined(hostname=hostname, pid=pid)
        return await self._change(host, lambda _: (Outcome.DONE, body), origin)

    async def cordon_host(self, host: str, reason: str, origin: Origin) -> ChangeResult:
        """Place no more workers on a host."""
        return await self._change_host(host, {"joined"}, events.HostCordoned(reason=reason), origin)

    async def leave_host(self, host: str, reason: str, origin: Origin) -> ChangeResult:
        """Record that a host has left."""
        body = events.HostLeft(reason=reason)
        return await self._change_host(host, {"joined", "cordoned"}, body, origin)

    async def remove_host(self, host: str, origin: Origin) -> ChangeResult:
        """Forget a host that has left."""
        return await self._change_host(host, {"left"}, events.HostRemoved(), origin)

    async def remove_pool(self, pool: Pool, retired: str, origin: Origin) -> ChangeResult:
        """Forget a deleted pool. `retired`: continues its log if it is created again; or empty.

        ABSENT if it was created again before.
        """

        def decide(state: Catalogue) -> Decision:
            found = state.pools.get(pool.pool_name)
            return (Outcome.DONE, events.PoolRemoved()) if found == pool else (Outcome.ABSENT, None)

        name = pool.pool_name
        writes: list[clauses.Write] = [clauses.SetMeta(f"made:{name}", "")]
        if retired:
            writes.append(clauses.SetMeta(f"retired:{name}", retired))
        return await self._change(name, decide, origin, *writes)

    async def change_token(
        self, name: str, decide: Callable[[Mapping[str, Token]], Decision], origin: Origin
    ) -> ChangeResult:
        """Make, change or revoke a token, as `decide` says from all that there are."""
        subject = tokens.subject_of(name)
        return await self._change(subject, lambda state: decide(state.tokens), origin)

    async def _change_host(
        self, host: str, statuses: Set[str], body: events.AnyBody, origin: Origin
    ) -> ChangeResult:
        """Change a host that has one of these statuses; else ALREADY."""

        def decide(state: Catalogue) -> Decision:
            known = state.hosts.get(host)
            if known is None:
                return Outcome.ABSENT, None
            return (Outcome.DONE, body) if known.status in statuses else (Outcome.ALREADY, None)

        return await self._change(host, decide, origin)

    async def _change(
        self,
        subject: str,
        decide: Callable[[Catalogue], Decision],
        origin: Origin,
        *writes: clauses.Write,
    ) -> ChangeResult:
        attempts = Attempts(self._log, CATALOGUE, subject)
        while True:
            state = await attempts.read(self.refresh)
            outcome, body = decide(state)
            if body is None:
                if attempts.unknown and outcome is Outcome.CONFLICT:  # another change was written
                    raise attempts.unknown
                proof = Proof(CATALOGUE, "log", seq=state.seq)
                return ChangeResult(Outcome.DONE if attempts.unknown else outcome, state, proof)
            version, field = state.version_of(subject), f"version:{subject}"
            step = self._log.step(CATALOGUE, origin)
            step.check(clauses.MetaIs(field, version or ""))
            step.event(body, subject, causation_id=state.cause_of(body, subject))
            step.write(_new_version(state, body, subject), *writes)
            reply = await attempts.commit(step)
            if reply and reply.outcome is Outcome.DONE:
                with reraise_unknown(OutcomeUnknown(UNKNOWN_RESULT)):
                    return ChangeResult(Outcome.DONE, await self.refresh(), proof_of(step, reply))


def _new_version(state: Catalogue, body: events.AnyBody, subject: str) -> clauses.Write:
    """What `version_of` is after this event."""
    field, version = f"version:{subject}", state.version_of(subject) + 1
    if isinstance(body, events.TokenRevoked):
        version = 0
    if isinstance(body, events.PoolRemoved | events.HostRemoved):
        rest = state.hosts if isinstance(body, events.PoolRemoved) else state.pools
        version = rest[subject].version if subject in rest else 0
    return clauses.SetMeta(field, version or "")


def _is_behind(state: Catalogue, entries: Sequence[Entry]) -> bool:
    """Whether events between the state and the first of these entries were trimmed."""
    return bool(entries) and events.decode_entry(*entries[0]).seq > state.seq + 1


def _fold(state: Catalogue, entry: Entry) -> Catalogue:
    """Fold an entry in place, unless it was folded before. Raises `UnknownEvent`."""
    event = events.decode_entry(*entry)
    if event.seq <= state.seq:
        return state
    try:
        return pools.evolve(state, event)
    except (ValueError, TypeError, KeyError) as error:
        reason = f"of {event.subject} at seq {event.seq} does not fit the catalogue: {error}"
        raise UnknownEvent(event.type, event.body.version, None, reason) from error
