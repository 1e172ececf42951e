"""Pools, hosts and tokens, folded from the catalogue."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.judging import moves, restarts
from tests.chaos.judging.entries import Entry
from tests.chaos.judging.history import RECOVERED
from tests.chaos.judging.offences import Offence

LEASE_SECONDS: Final = 10.0
MAX_WORKERS: Final = 100
AGENTS_PER_WORKER: Final = 10
KNOWN: Final = {
    "pool.created": {"", "deleted"},
    "pool.changed": {"live"},
    "pool.replacement_started": {"live"},
    "pool.replacement_finished": {"live"},
    "pool.replacement_stopped": {"live"},
    "pool.deleted": {"live"},
    "pool.removed": {"deleted"},
    "host.joined": {"", "joined", "cordoned", "left"},
    "host.cordoned": {"joined"},
    "host.left": {"joined", "cordoned"},
    "host.removed": {"left"},
    "token.created": {""},
    "token.rotated": {"valid"},
    "token.revoked": {"valid"},
}
"""In which state an event may find its pool, host or token; empty: not known."""
TOKEN: Final = "token:"
"""In front of a token's name it is the subject of its events."""


@dataclass
class Declared:
    """A pool as the catalogue has it."""

    role_type: str
    config: dict[str, Any]
    status: str = "live"
    version: int = 1
    created_seq: int = 0
    created_ms: int = 0
    changed_ms: int = 0
    replacement: dict[str, Any] | None = None


@dataclass
class Host:
    hostname: str
    pid: int
    status: str = "joined"
    reason: str = ""
    version: int = 1
    joined_ms: int = 0
    changed_ms: int = 0


@dataclass
class Token:
    created: Entry
    secrets: list[dict[str, Any]]
    status: str = "valid"
    version: int = 1
    changed_ms: int = 0


@dataclass
class Catalogue:
    """The fold of the catalogue's log."""

    pools: dict[str, Declared] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    """By the subject of their events."""
    versions: dict[str, int] = field(default_factory=dict)
    """By name: a pool and a host that bear the same one are counted together."""
    slots: dict[str, int] = field(default_factory=dict)
    """By pool: the most that a worker of it was ever to have."""
    workers: dict[str, int] = field(default_factory=dict)
    """By pool: the most that it was ever to have."""
    limits: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """By pool: the limits of failures, and of failed starts, that it ever had."""
    configs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By pool: all configurations that it ever had."""
    replacements: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By pool: all replacements of its workers that were asked for."""
    removed: set[str] = field(default_factory=set)
    """Pools that were removed, and may have been created again: Redis need not have their logs."""
    recovered: bool = False
    """Events of it were lost."""
    offences: list[Offence] = field(default_factory=list)

    def apply(self, entry: Entry) -> None:
        if entry.type == RECOVERED:
            self.recovered = True
            return
        if entry.type not in KNOWN or entry.version != 1:
            self.offences.append(entry.offence(5, f"an unknown event (version {entry.version})"))
            return
        if entry.type.startswith("token.") is not entry.subject.startswith(TOKEN):
            self.offences.append(entry.offence(6, "its subject is not of its kind"))
        of_pool = entry.type.startswith("pool.")
        known = self._known(entry)
        status = known.status if known else ""
        if status not in KNOWN[entry.type]:
            self.offences.append(entry.offence(6, f"it was {status or 'not known'}"))
        if entry.type == "token.revoked":
            self.tokens.pop(entry.subject, None)
            self.versions.pop(entry.subject, None)
            return
        if entry.type.endswith(".removed"):
            self._remove(entry)
            return
        self.versions[entry.subject] = version = self.versions.get(entry.subject, 0) + 1
        if entry.type.startswith("token."):
            self._apply_to_token(entry, version)
        elif of_pool:
            self._apply_to_pool(entry, self.pools.get(entry.subject), version)
        else:
            self._apply_to_host(entry, self.hosts.get(entry.subject), version)

    def _known(self, entry: Entry) -> Declared | Host | Token | None:
        kind = entry.type.partition(".")[0]
        named: dict[str, Mapping[str, Declared | Host | Token]] = {
            "pool": self.pools,
            "host": self.hosts,
            "token": self.tokens,
        }
        return named[kind].get(entry.subject)

    def _apply_to_token(self, entry: Entry, version: int) -> None:
        known = self.tokens.get(entry.subject)
        secret = {
            "digest": str(entry.body.get("digest", "")),
            "created_ms": entry.ts,
            "expires_ms": int(entry.body.get("expires_ms", 0)),
        }
        if known is None:
            known = self.tokens[entry.subject] = Token(entry, [secret])
        elif entry.type == "token.rotated":
            before = {**known.secrets[0], "expires_ms": entry.body.get("previous_expires_ms", 0)}
            known.secrets = [secret, before]
        known.version, known.changed_ms = version, entry.ts

    def _remove(self, entry: Entry) -> None:
        """Its version too, unless a pool and a host bear the same name."""
        of_pool = entry.type.startswith("pool.")
        known, others = (self.pools, self.hosts) if of_pool else (self.hosts, self.pools)
        known.pop(entry.subject, None)
        self.versions.pop(entry.subject, None)
        if other := others.get(entry.subject):
            self.versions[entry.subject] = other.version
        if of_pool:
            self.removed.add(entry.subject)

    def _apply_to_pool(self, entry: Entry, known: Declared | None, version: int) -> None:
        if entry.type == "pool.created":
            self.pools[entry.subject] = Declared(
                str(entry.body.get("role_type", "")),
                restarts.settings(entry.body.get("config", {})),
                version=version,
                created_seq=entry.seq,
                created_ms=entry.ts,
                changed_ms=entry.ts,
            )
        elif known is not None:
            known.version = version
            known.changed_ms = entry.ts
            if entry.type == "pool.changed":
                known.config = restarts.settings(entry.body.get("config", {}))
            elif entry.type.startswith("pool.replacement_"):
                self._replace_workers(entry, known)
            else:
                known.status = "deleted"
        if declared := self.pools.get(entry.subject):
            slots = int(declared.config.get("agents_per_worker", AGENTS_PER_WORKER))
            self.slots[entry.subject] = max(self.slots.get(entry.subject, 0), slots)
            most = int(declared.config.get("max_workers", MAX_WORKERS))
            self.workers[entry.subject] = max(self.workers.get(entry.subject, 0), most)
            self.limits.setdefault(entry.subject, []).append(restarts.limits(declared.config))
            self.configs.setdefault(entry.subject, []).append(declared.config)

    def _replace_workers(self, entry: Entry, known: Declared) -> None:
        status, now = entry.type.removeprefix("pool.replacement_"), known.replacement
        if (status == "started") == (now is not None and now["status"] == "running"):
            self.offences.append(entry.offence(6, "a replacement is running, or none is"))
        if status == "started":
            limits = {"deadline_seconds": 0.0, "detail": "", "ended_at": 0, **entry.body}
            who = {"replacement_id": entry.event_id, "actor": entry.actor}
            known.replacement = {**limits, **who, "status": "running", "started_at": entry.ts}
            self.replacements.setdefault(entry.subject, []).append(known.replacement)
        elif now is not None:
            detail = str(entry.body.get("reason", ""))
            known.replacement = {**now, "status": status, "detail": detail, "ended_at": entry.ts}

    def _apply_to_host(self, entry: Entry, known: Host | None, version: int) -> None:
        if entry.type == "host.joined":
            self.hosts[entry.subject] = Host(
                str(entry.body.get("hostname", "")),
                int(entry.body.get("pid", 0)),
                version=version,
                joined_ms=entry.ts,
                changed_ms=entry.ts,
            )
        elif known is not None:
            known.version = version
            known.changed_ms = entry.ts
            known.status = entry.type.removeprefix("host.")
            known.reason = str(entry.body.get("reason", ""))

    def most_moves(self, pool: str) -> moves.Allowed:
        """The most that it ever allowed."""
        some = [moves.allowed(config) for config in self.configs.get(pool, [{}])]
        return max(minute for minute, _ in some), max(hour for _, hour in some)

    def lease_seconds(self, pool: str) -> float:
        declared = self.pools.get(pool)
        return float(
            declared.config.get("lease_seconds", LEASE_SECONDS) if declared else LEASE_SECONDS
        )

    def max_workers(self, pool: str) -> int:
        declared = self.pools.get(pool)
        return int(declared.config.get("max_workers", MAX_WORKERS) if declared else MAX_WORKERS)


def compare(catalogue: Catalogue, meta: Mapping[str, str]) -> Iterator[Offence]:
    """The versions of pools and hosts that the scripts store."""
    found = {
        field.removeprefix("version:"): int(value)
        for field, value in meta.items()
        if field.startswith("version:")
    }
    versions = catalogue.versions if meta else {}
    for name in sorted({*versions, *found}):
        if versions.get(name) != found.get(name):
            why = f"its version is {found.get(name)}, the log says {versions.get(name)}"
            yield Offence(6, why, subject=name)


def fold(entries: Iterable[Entry]) -> Catalogue:
    catalogue = Catalogue()
    for entry in entries:
        catalogue.apply(entry)
    return catalogue
