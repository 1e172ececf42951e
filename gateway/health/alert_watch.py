"""Writes alerts as they are opened and closed: of all gateways one at a time does so.

It leads as a supervisor leads a pool: another takes over when it has not renewed for a whole lease,
by the other's monotonic clock. The others report what only they can know. While Redis does not
answer, each gateway goes on by what it knows, and remembers what it cannot write: who leads
afterwards writes that, with the times at which it was.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from eventstore.errors import LogError, LogUnreachable
from eventstore.ids import new_id
from eventstore.log.alerts import AlertLog, Change, Lead
from eventstore.ticks import tick
from gateway.alerts.alerts import Alert, evaluate
from gateway.alerts.facts import Facts
from gateway.alerts.ledger import CLEAR_MS, Closed, LedgerChange, Opened
from gateway.backend.backend import Backend
from gateway.health.alert_facts import gather
from gateway.health.alerts import own_alerts, recall_incidents, with_others
from gateway.health.observed import Observed
from gateway.health.recent_facts import RecentFacts
from gateway.wire.problems import Problem

log = structlog.get_logger("muster.gateway")

LEASES: Final = 6
"""A leader that has not renewed for so many intervals has ended."""
POOLS_MAX: Final = 50
"""Where there are more, those are asked about of which there is anything to ask …"""
SWEEP_SECONDS: Final = 60.0
"""… and all of them as often as this."""
RECENT_ROUNDS: Final = 12
"""What nothing says to have changed is read again after so many rounds."""
RELEASE_SECONDS: Final = 0.5


class AlertWatch:
    """Of one gateway."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._seconds = backend.limits.alert_seconds
        self._log = AlertLog(backend.log.client, backend.log.keys, f"gateway:{new_id()}")
        self._leader = Observed()
        self._reports: dict[str, Observed] = {}
        self._term = 0
        self._seen: tuple[int, int] = (0, 0)
        """Term and renewal of the leader, as of the last round."""
        self._sending: tuple[str, list[LedgerChange]] | None = None
        """What was sent, and may not have been written: it is sent again."""
        self._recent = RecentFacts(RECENT_ROUNDS * self._seconds)
        self._heads: dict[str, int] = {}
        self._waiting: set[str] = set()
        self._swept_at = -SWEEP_SECONDS
        self._denied = ""

    async def run(self) -> None:
        """Until cancelled."""
        recalled = False
        try:
            while True:
                if not recalled:
                    with suppress(Problem):
                        await recall_incidents(self._backend)
                        recalled = True
                await self.round()
                await tick(self._seconds)
        finally:
            with suppress(LogError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._log.lead(self._term, ends=True)

    async def round(self) -> None:
        """Evaluate and write, if this gateway leads or none can."""
        facts: Facts | None = None
        if self._term:  # what is asked of Redis then goes out in one write
            lead, facts = await asyncio.gather(self._lead(), self._gather())
        else:
            lead = await self._lead()
        ledger = self._backend.ledger
        if lead is None:
            await self._observe({}, facts)
            return
        if lead.who != self._log.who:
            if not ledger.unwritten or self._leader.changed:
                self._follow(lead)
            else:  # written by whoever leads next, perhaps by this gateway
                await self._observe({}, facts)
            return
        if lead.term != self._term or lead.renewal <= self._seen[1]:
            self._take_over(lead)
        self._seen = lead.term, lead.renewal
        self._backend.writes_alerts.set()
        await self._observe(lead.reports, facts)
        await self._write()

    async def _lead(self) -> Lead | None:
        """Who leads now; None if Redis does not answer."""
        own = own_alerts(self._backend)
        report = msgspec.json.encode((time.monotonic(), own)) if own else b""
        lease = LEASES * self._seconds
        stale = self._leader.value if self._leader.age_seconds >= lease else None
        try:
            lead = await self._log.lead(
                self._term,
                stale=stale if isinstance(stale, Lead) else None,
                report=report,
                report_ms=int(lease * 1000),
            )
        except LogError as error:
            self._leader.interrupt()
            self._backend.writes_alerts.clear()
            self._report(error)
            return None
        self._denied = ""
        self._leader.observe(lead, (lead.term, lead.renewal))
        return lead

    def _report(self, error: LogError) -> None:
        """Log once what is no outage: that has lines of its own."""
        if not isinstance(error, LogUnreachable) and str(error) != self._denied:
            self._denied = str(error)
            log.warning("gateway.alerts_not_written", reason=self._denied)

    def _follow(self, lead: Lead) -> None:
        """Another leads: what is open is what it has written."""
        self._backend.writes_alerts.clear()
        self._term, self._sending, self._seen = 0, None, (lead.term, lead.renewal)
        self._backend.ledger.adopt(_stored(lead))

    def _take_over(self, lead: Lead) -> None:
        """Go on from what was written, unless this gateway has observed all since."""
        ledger = self._backend.ledger
        if self._sending:
            ledger.unwritten = [*self._sending[1], *ledger.unwritten]
        seen_term, seen_renewal = self._seen
        if lead.renewal <= seen_renewal:  # Redis was emptied
            ledger.reopen()
        elif lead.term != seen_term + 1 or not ledger.unwritten:
            ledger.adopt(_stored(lead))
        self._term, self._sending, self._swept_at = lead.term, None, -SWEEP_SECONDS
        log.info("gateway.alerts_led", term=lead.term)

    # ---- what holds ----------------------------------------------------------------------------

    async def _gather(self) -> Facts:
        return await gather(self._backend, self._pools(), self._recent)

    async def _observe(self, reports: Mapping[str, bytes], facts: Facts | None) -> None:
        """Note what holds by these facts; None: by those of now."""
        backend, facts = self._backend, facts or await self._gather()
        self._waiting = {name for name, pool in facts.pools.items() if pool.waiting}
        verdict = with_others(evaluate(facts), self._reported(reports))
        clear_ms = min(CLEAR_MS, int(2 * self._seconds * 1000))
        backend.ledger.observe(verdict, facts.now_ms, new_id, clear_ms=clear_ms)

    def _pools(self) -> set[str] | None:
        """The pools to ask about; None: all. Of a pool at rest nothing new can be said."""
        heads = {pool: head.seq for pool, head in self._backend.tail.heads.items()}
        before, self._heads = self._heads, heads
        if len(heads) <= POOLS_MAX or time.monotonic() - self._swept_at >= SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            return None
        moved = {pool for pool, seq in heads.items() if before.get(pool) != seq}
        named = {alert.pool_name for alert in self._backend.ledger.open.values()}
        return moved | named | self._waiting | self._backend.incidents.pools()

    def _reported(self, reports: Mapping[str, bytes]) -> list[Alert]:
        """What other gateways know, of those that go on reporting."""
        found: list[Alert] = []
        self._reports = {who: self._reports.get(who, Observed()) for who in reports}
        for who, report in reports.items():
            observed = self._reports[who]
            observed.observe(report, report)
            if who != self._log.who and observed.age_seconds < LEASES * self._seconds:
                found += _alerts_in(report)
        return found

    # ---- what is written -----------------------------------------------------------------------

    async def _write(self) -> None:
        """Write what has changed. What may have been written already is sent again as it was."""
        ledger = self._backend.ledger
        while self._sending or ledger.unwritten:
            if self._sending is None:
                self._sending, ledger.unwritten = (new_id(), ledger.unwritten), []
            call_id, changes = self._sending
            try:
                written = await self._log.write(self._term, call_id, map(_change, changes))
            except LogError:
                return
            self._sending = None
            if not written:  # another leads: it decides what is open
                self._term = 0
                return
            for one in changes:
                _log_change(one)


def _stored(lead: Lead) -> list[Alert]:
    """The open alerts as they were written; not those of a newer version that cannot be read."""
    found = []
    for state in lead.open.values():
        with suppress(msgspec.MsgspecError):
            found.append(msgspec.json.decode(state, type=Alert))
    return found


def _alerts_in(report: bytes) -> list[Alert]:
    try:
        return msgspec.json.decode(report, type=tuple[float, list[Alert]])[1]
    except msgspec.MsgspecError:
        return []


def _change(change: LedgerChange) -> Change:
    """As it is written."""
    alert = change.alert
    if isinstance(change, Closed):
        return Change(alert.alert_id, b"", new_id(), alert.closed_by(change.at_ms))
    state = msgspec.json.encode(alert)
    if isinstance(change, Opened):
        return Change(alert.alert_id, state, new_id(), alert.opened())
    return Change(alert.alert_id, state)


def _log_change(change: LedgerChange) -> None:
    alert = change.alert
    named = {"name": alert.name, "subject": alert.subject, "alert_id": alert.alert_id}
    if isinstance(change, Opened):
        log.warning("alert.opened", **named, severity=alert.severity, message=alert.message)
    elif isinstance(change, Closed):
        log.info("alert.closed", **named)
