"""From what is known to the alerts that apply: each rule decided, grouped, and put into words."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from msgspec import Struct

from eventstore.language.alerts import TEXT_MAX, AlertClosed, AlertOpened, Case
from gateway.alerts.conditions import Finding
from gateway.alerts.facts import Facts
from gateway.alerts.rules import RULES, Rule, runbook
from projector.queries.views import Timed

Key = tuple[str, str, str]
"""What makes two alerts the same: the rule, the pool, and the part that it is about."""


class Alert(Timed, frozen=True, kw_only=True):
    """`since` is in milliseconds since 1970, null where it is not known."""

    name: str
    severity: str
    subject: str
    message: str
    action: str
    since: int | None = None
    since_time: datetime | None = None
    pool_name: str = ""
    count: int = 1
    """Of how many agents or workers it is, where it is about several."""
    newest: tuple[Case, ...] = ()
    """The newest three of them."""
    runbook: str = ""
    alert_id: str = ""
    """Under which `alert.opened` was written; empty until then."""
    closed_at: int | None = None
    closed_time: datetime | None = None

    @property
    def key(self) -> Key:
        """Alerts of a pool are one whatever number of agents they are about."""
        return self.name, self.pool_name, "" if self.pool_name else self.subject

    def opened(self) -> AlertOpened:
        return AlertOpened(
            name=self.name,
            severity=self.severity,
            subject=self.subject,
            message=self.message[:TEXT_MAX],
            action=self.action[:TEXT_MAX],
            runbook=self.runbook,
            opened_at=self.since or 0,
            pool_name=self.pool_name,
            count=self.count,
            newest=self.newest,
        )

    def closed_by(self, closed_at: int) -> AlertClosed:
        return AlertClosed(
            name=self.name,
            severity=self.severity,
            subject=self.subject,
            opened_at=self.since or 0,
            closed_at=closed_at,
            pool_name=self.pool_name,
            count=self.count,
        )


def alert_of(name: str, finding: Finding) -> Alert:
    """An alert in words."""
    rule = RULES[name]
    words = {
        "subject": finding.subject,
        "pool": finding.pool,
        "number": finding.count,
        **finding.details,
    }
    return Alert(
        name=name,
        severity=rule.severity,
        subject=finding.subject,
        message=rule.message.format(**words),
        action=rule.action.format(**words),
        since=finding.since_ms,
        pool_name=finding.pool,
        count=finding.count,
        newest=finding.newest,
        runbook=runbook(name),
    )


class Verdict(Struct, frozen=True):
    """What holds, and what could not be decided."""

    alerts: dict[Key, Alert]
    undecided: frozenset[str]
    """The rules whose facts could not be read."""
    asked: frozenset[str] | None
    """The pools that were asked about; None: all."""

    def decides(self, alert: Alert) -> bool:
        """Whether an alert that is not among these is over."""
        pool = alert.pool_name
        of_asked = not pool or self.asked is None or pool in self.asked
        return of_asked and alert.name not in self.undecided


def evaluate(facts: Facts, rules: Mapping[str, Rule] = RULES) -> Verdict:
    """Decide all rules that can be decided."""
    decided = {name: rule for name, rule in rules.items() if facts.known.issuperset(rule.needs)}
    found: dict[Key, Alert] = {}
    for name, rule in decided.items():
        for finding in rule.when(facts):
            if finding.held_ms >= rule.for_seconds * 1000:
                alert = alert_of(name, finding)
                found[alert.key] = alert
    return Verdict(found, frozenset(rules.keys() - decided), facts.asked)


def ordered(alerts: Iterable[Alert]) -> list[Alert]:
    """The critical ones first, of each the newest first."""
    return sorted(alerts, key=lambda one: (one.severity != "critical", -(one.since or 0)))
