"""Judges a complete history of Muster from its streams, archive, views and keys.

    python -m tests.chaos.judge --redis URL --views URL [--acknowledged FILE] [--at-rest] …

It has its own readers and its own fold and imports nothing of Muster, so that an error there cannot
hide itself. Every offence names the invariant, the event and why; any makes the exit code 1.

It may judge a running system: values are compared as of one point in time. `--at-rest` says that
there was no request for a while, so that nothing may be unfinished.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.judging import (
    caps,
    catalogue,
    causes,
    commands,
    database,
    keys,
    moves,
    pauses,
    pools,
    registry,
    replacements,
    rest,
    restarts,
    traces,
    views,
)
from tests.chaos.judging import exports as exported
from tests.chaos.judging.catalogue import Catalogue
from tests.chaos.judging.commands import Command, LostCommand
from tests.chaos.judging.database import Database
from tests.chaos.judging.entries import CATALOGUE, Entry
from tests.chaos.judging.history import History, join
from tests.chaos.judging.offences import INVARIANTS, Offence, in_order
from tests.chaos.judging.pauses import Pause
from tests.chaos.judging.pools import Pool
from tests.chaos.judging.streams import Registry, Streamed, Streams
from tests.chaos.judging.traces import AgentTrace

ATTEMPTS = 3
"""How often archive and stream are read again where the stream was trimmed in between."""


@dataclass
class Evidence:
    """All data that is judged, as it was read."""

    streamed: dict[str, Streamed] = field(default_factory=dict)
    """By log; the catalogue's is the empty name."""
    registries: dict[str, Registry] = field(default_factory=dict)
    lasting: list[str] = field(default_factory=list)
    """Keys that do not expire."""
    fading: list[str] = field(default_factory=list)
    """Keys that do."""
    prefix: str = ""
    views: Database | None = None
    commands: Sequence[Command] = ()
    unsaved: Sequence[LostCommand] = ()
    pauses: Sequence[Pause] = ()
    traces: Sequence[AgentTrace] = ()
    exported: Sequence[Offence] = ()
    """What is wrong with exports and what a pruning has left."""
    traced_at: float = 0.0
    """When an agent last wrote before these were read, by their clock."""

    def archive(self, log: str) -> Sequence[Entry]:
        return self.views.archive.get(log, ()) if self.views else ()

    def history(self, log: str, *, removed: bool = False) -> History:
        found = self.streamed.get(log, Streamed())
        return join(log, self.archive(log), found.entries, found.head, removed=removed)

    def logs(self) -> list[str]:
        archived = self.views.archive if self.views else {}
        return sorted({*self.streamed, *archived} - {CATALOGUE})


def judge(
    redis_url: str,
    *,
    views: str = "",
    prefix: str = "",
    acknowledged: Iterable[str | Command] = (),
    unsaved: Sequence[LostCommand] = (),
    traces: Sequence[AgentTrace] = (),
    at_rest: bool = False,
    exports: Path | None = None,
) -> list[Offence]:
    """All offences of a system. `views`: where its SQL is; `acknowledged`: commands, or the ids
    of agents whose spawns were; `exports`: the folder that has what was pruned."""
    evidence = gather(redis_url, views, prefix, exports)
    evidence.commands = [
        one if isinstance(one, Command) else Command("spawn", agent_id=one) for one in acknowledged
    ]
    evidence.unsaved, evidence.traces = unsaved, traces
    evidence.traced_at = max((at for one in traces for at in one.times), default=0.0)
    return weigh(evidence, at_rest=at_rest)


# ---- gathering ---------------------------------------------------------------------------------


def gather(
    redis_url: str, views: str = "", prefix: str = "", exports: Path | None = None
) -> Evidence:
    """Read the database first: what Redis has is then never behind it."""
    streams = Streams(redis_url, prefix)
    try:
        for _ in range(ATTEMPTS):
            evidence = Evidence(prefix=prefix, views=database.read(views) if views else None)
            if evidence.views is not None and exports is not None:
                evidence.exported = exported.add(evidence.views, exports)
            _read_redis(evidence, streams)
            if not _torn(evidence):
                break
        return evidence
    finally:
        streams.close()


def _read_redis(evidence: Evidence, streams: Streams) -> None:
    found = streams.keys()
    names = streams.pools(found) | set(evidence.logs())
    for pool in sorted(names):
        log = streams.log(pool)
        evidence.streamed[pool] = log
        folded = pools.fold(pool, evidence.history(pool).entries)
        start = {kind: f"{streams.prefix}{kind}:{{{pool}}}:" for kind in ("agent", "process")}
        scanned = {
            kind: {key.removeprefix(head) for key in found if key.startswith(head)}
            for kind, head in start.items()
        }
        agents = sorted(scanned["agent"] | folded.living.keys())
        workers = sorted(scanned["process"] | folded.workers.keys())
        evidence.registries[pool] = streams.registry(pool, log, agents, workers)
    evidence.streamed[CATALOGUE] = log = streams.log(CATALOGUE)
    streams.catch_up(CATALOGUE, log)
    for key, lasts in streams.lasting(found):
        (evidence.lasting if lasts else evidence.fading).append(key)


def _torn(evidence: Evidence) -> bool:
    """Whether there is a gap between the archive and the stream, which was trimmed meanwhile."""
    return any(
        bool(log.entries and evidence.views)
        and log.entries[0].seq > 1 + max((e.seq for e in evidence.archive(name)), default=0)
        for name, log in evidence.streamed.items()
    )


# ---- weighing ----------------------------------------------------------------------------------


def weigh(evidence: Evidence, *, at_rest: bool = False, partial: bool = False) -> list[Offence]:
    """The offences in the evidence. Pure.

    `partial`: a history that starts late is no offence; only its storage can be judged.
    """
    declared = catalogue.fold(evidence.history(CATALOGUE).entries)
    histories = {
        log: evidence.history(log, removed=log in declared.removed)
        for log in (CATALOGUE, *evidence.logs())
    }
    complete = {log: history for log, history in histories.items() if not history.starts_late}
    offences = [offence for history in histories.values() for offence in history.offences]
    if not partial:
        begin = [histories[log].entries[0] for log in histories.keys() - complete.keys()]
        offences += [entry.offence(5, "the history begins with it") for entry in begin]
    offences += [o for found in evidence.streamed.values() for o in found.offences]
    offences += evidence.exported
    offences += declared.offences
    offences += catalogue.compare(declared, evidence.streamed.get(CATALOGUE, Streamed()).meta)
    folded = {log: pools.fold(log, complete[log].entries) for log in complete.keys() - {CATALOGUE}}
    for name, pool in folded.items():
        offences += pools.oversized(pool, declared.slots.get(name))
        offences += pool.leader.judge(declared.workers.get(name))
        if name in declared.limits:
            limit, start_limit = zip(*declared.limits[name], strict=True)
            offences += restarts.judge_limits(
                pool.counted, (min(limit), max(limit)), (min(start_limit), max(start_limit))
            )
        found = evidence.registries.get(name)
        if CATALOGUE in complete and not declared.recovered:
            offences += _as_asked(pool, found, declared)
        offences += _pool(pool, found, declared if at_rest else None)
    for history in complete.values():
        offences += causes.judge(history.entries)
    if evidence.views is not None:
        for history in complete.values():
            offences += views.judge(history, evidence.views, at_rest=at_rest)
        offences += views.judge_strays(histories.keys(), evidence.views)
    late = histories.keys() - complete.keys()
    known = [key for key in evidence.lasting if keys.pool_of(key) not in late]
    offences += keys.judge(known, evidence.prefix, folded)
    offences += keys.fading(evidence.fading, evidence.prefix)
    offences += _outside(evidence, complete, folded, declared, late)
    offences += pauses.judge(evidence.pauses, complete)
    if at_rest:
        since = evidence.traced_at
        offences += traces.awake(evidence.traces, folded, declared, since)
    return in_order(offences)


def _pool(pool: Pool, found: Registry | None, at_rest: Catalogue | None) -> Iterator[Offence]:
    pool.finish()
    yield from pool.offences
    if found is not None and found.meta:
        pool.uncleared = found.lost
        yield from registry.judge(pool, found)
        if at_rest is not None:
            yield from rest.judge(pool, found, at_rest)


def _as_asked(pool: Pool, found: Registry | None, declared: Catalogue) -> Iterator[Offence]:
    """What all that was ever asked of the pool allows; what was lost may have allowed more."""
    name = pool.name
    yield from caps.judge(pool.counts, declared.configs.get(name, ()))
    yield from replacements.judge(pool.replaced, declared.replacements.get(name, ()))
    asked = found.asked if found is not None else ()
    yield from moves.judge(name, pool.moved, asked, declared.most_moves(name))


def _outside(
    evidence: Evidence,
    complete: dict[str, History],
    folded: dict[str, Pool],
    declared: Catalogue,
    late: Set[str],
) -> Iterator[Offence]:
    """Judge what clients and agents recorded of all pools, except where the history starts late.

    A pool without any log has lost all its commands.
    """
    judged = [c for c in evidence.commands if c.of_catalogue or c.pool not in late]
    yield from commands.judge(judged, list(complete.values()), evidence.unsaved)
    lost = commands.named_lost(judged, evidence.unsaved)
    remaining = [command for command in judged if command not in lost]
    seen = [trace for trace in evidence.traces if trace.pool in folded]
    yield from traces.judge(seen, folded, declared, remaining)


# ---- the command -------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.judge", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--redis", required=True, metavar="URL")
    parser.add_argument("--views", default="", metavar="URL", help="SQLite or PostgreSQL")
    parser.add_argument("--prefix", default="", help="of all keys")
    parser.add_argument("--acknowledged", type=Path, metavar="FILE", help="the client's journal")
    parser.add_argument("--unsaved", type=Path, metavar="FILE", help="of `muster recover --json`")
    parser.add_argument("--traces", type=Path, metavar="FOLDER", help="what agents wrote")
    parser.add_argument("--paused", type=Path, metavar="FILE", help="when pools were paused")
    parser.add_argument("--exports", type=Path, metavar="FOLDER", help="of what was pruned")
    parser.add_argument("--partial", action="store_true", help="a history may begin late")
    parser.add_argument("--at-rest", action="store_true", help="nothing may be half done")
    parser.add_argument("--json", action="store_true", help="offences as one JSON object")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    asked = arguments(argv)
    evidence = gather(asked.redis, asked.views, asked.prefix, asked.exports)
    if asked.acknowledged:
        evidence.commands = commands.read_commands(asked.acknowledged)
    if asked.unsaved:
        evidence.unsaved = commands.read_lost_commands(asked.unsaved)
    if asked.traces:
        evidence.traced_at = traces.newest(asked.traces)
        evidence.traces = traces.read(asked.traces)
    if asked.paused:
        evidence.pauses = pauses.read(asked.paused)
    offences = weigh(evidence, at_rest=asked.at_rest, partial=asked.partial)
    seen = sum(log.head.seq for log in evidence.streamed.values())
    if asked.json:
        report = {"events": seen, "offences": [offence.as_json() for offence in offences]}
        print(json.dumps(report, indent=2))
        return 1 if offences else 0
    for offence in offences:
        print(offence)
    for number in sorted({offence.invariant for offence in offences}):
        print(f"\ninvariant {number}: {INVARIANTS[number]}")
    print(f"{len(offences)} offences in {seen} events of {len(evidence.logs())} pools")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
