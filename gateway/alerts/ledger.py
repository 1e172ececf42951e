"""Which alerts are open: what is opened, changed and closed by each verdict. No clock, no network.

An alert is opened at once, and closed when its condition was absent for `CLEAR_MS`: its end is when
it was first absent. What a verdict could not decide stays as it was.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from gateway.alerts.alerts import Alert, Key, Verdict

CLEAR_MS: Final = 10_000
UNWRITTEN_MAX: Final = 1_000
"""So many changes are remembered while they cannot be written; the oldest are dropped first."""


class Opened(Struct, frozen=True):
    alert: Alert


class Changed(Struct, frozen=True):
    """It is about others, or about more or fewer."""

    alert: Alert


class Closed(Struct, frozen=True):
    alert: Alert
    at_ms: int


LedgerChange: TypeAlias = Opened | Changed | Closed


class Ledger:
    """The open alerts, as one gateway knows them, and what it has not written yet."""

    def __init__(self) -> None:
        self.open: dict[Key, Alert] = {}
        self.unwritten: list[LedgerChange] = []
        self._absent_since: dict[Key, int] = {}

    def adopt(self, alerts: Iterable[Alert]) -> None:
        """Go on from what others have written."""
        self.open = {alert.key: alert for alert in alerts}
        self.unwritten = []
        self._absent_since = {}

    def reopen(self) -> None:
        """What was written is lost: write again what is open."""
        written = self.open.keys() - {one.alert.key for one in self.unwritten}
        self.unwritten = [*(Opened(self.open[key]) for key in written), *self.unwritten]

    def observe(
        self, verdict: Verdict, now_ms: int, new_id: Callable[[], str], *, clear_ms: int = CLEAR_MS
    ) -> None:
        """Note in `open` and `unwritten` what a verdict changes."""
        for key, alert in verdict.alerts.items():
            self._absent_since.pop(key, None)
            self._hold(key, alert, now_ms, new_id)
        for key, alert in [*self.open.items()]:
            if key in verdict.alerts or not verdict.decides(alert):
                continue
            absent_since = self._absent_since.setdefault(key, now_ms)
            if now_ms - absent_since >= clear_ms:
                del self.open[key], self._absent_since[key]
                self.unwritten.append(Closed(alert, max(absent_since, alert.since or 0)))
        del self.unwritten[:-UNWRITTEN_MAX]

    def _hold(self, key: Key, alert: Alert, now_ms: int, new_id: Callable[[], str]) -> None:
        known = self.open.get(key)
        if known is None:
            opened = replace(alert, alert_id=new_id(), since=alert.since or now_ms)
            self.open[key] = opened
            self.unwritten.append(Opened(opened))
            return
        held = replace(alert, alert_id=known.alert_id, since=known.since)
        self.open[key] = held
        if (held.subject, held.count, held.newest) != (known.subject, known.count, known.newest):
            self.unwritten.append(Changed(held))


def current(verdict: Verdict, opened: Mapping[Key, Alert]) -> list[Alert]:
    """As `Ledger.current`, with open alerts from elsewhere."""
    found = [_known(alert, opened.get(key)) for key, alert in verdict.alerts.items()]
    undecided = (
        alert
        for key, alert in opened.items()
        if key not in verdict.alerts and not verdict.decides(alert)
    )
    return [*found, *undecided]


def _known(alert: Alert, opened: Alert | None) -> Alert:
    if opened is None:
        return alert
    return replace(alert, alert_id=opened.alert_id, since=opened.since or alert.since)
