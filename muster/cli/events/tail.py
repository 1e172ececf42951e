"""show the events of the log

Shows the events of pools and of the catalogue, read from Redis itself, and trimmed ones from the
archive.

  muster tail                                   the last 20 events of all pools
  muster tail --follow                          … and new ones as they come
  muster tail --from 10m --type 'agent.*'       events of agents in the last ten minutes
  muster tail --from developer_pool:120 -n 5    five events of a pool, from its 120th on
  muster tail --from 0 --json | jq .type        all events, for a program
"""

import argparse
import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from eventstore.language.events import EVENT_TYPES
from eventstore.names import unknown_name
from muster.cli.arguments import command, targets
from muster.cli.arguments.output import is_json
from muster.cli.arguments.values import AGENT_ID, CLOCK, time_ms
from muster.cli.client import names
from muster.cli.events.lines import CATALOGUE, RecordedEvent, event_cells, printer
from muster.cli.events.streams import MISSING, RECOVERY_HINT, Streams, before_ms

if TYPE_CHECKING:
    from projector.queries.views import Views

LAST = 20
CANDIDATES_MAX = 10
STREAM_ID = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
"""Two numbers; those of 64 bits have no more digits."""
POSITION = re.compile(r"([a-z0-9_-]{1,63}):(\d{1,20})")


class TailOptions(Struct, frozen=True, kw_only=True):
    """What to show. `start`: the value of `--from`, empty for the last `count` events."""

    redis_url: str
    key_prefix: str = ""
    database_url: str = ""
    """The database of the archive; empty: only events in Redis are shown."""
    pools: tuple[str, ...] = ()
    start: str = ""
    types: tuple[str, ...] = ()
    agent: str = ""
    worker: str = ""
    count: int | None = None
    follow: bool = False
    block_seconds: float = 5.0
    """After so long without an event, check whether the logs still exist."""

    def matches(self, event: RecordedEvent) -> bool:
        fields = event.fields
        kind, subject = fields.get("type", ""), fields.get("subject", "")
        return (
            (not self.types or any(fnmatchcase(kind, wanted) for wanted in self.types))
            and (not self.agent or subject == self.agent)
            and (not self.worker or self.worker in (subject, fields.get("worker_id")))
        )


def add(subparsers: command.Subparsers) -> None:
    parser = command.declare(subparsers, "tail", run, __doc__)
    option = parser.add_argument
    option("--pool", action="append", default=[], metavar="NAME", dest="pools",
           help="this pool only (again for more; `catalogue`: pools and hosts)")  # fmt: skip
    option("--from", dest="start", default="", metavar="POSITION", help="start at: 0 (the start),"
           " POOL:SEQ, a stream's id, 10m (ago), 14:03 or a date")  # fmt: skip
    option("-f", "--follow", action="store_true", help="wait for new events")
    option("--type", action="append", default=[], metavar="TYPE", dest="types",
           help="events of this type only, such as agent.crashed or 'worker.*'")  # fmt: skip
    option("--agent", default="", metavar="ID", help="events of this agent only: its id, or a"
           " part of it")  # fmt: skip
    option("--worker", default="", metavar="ID", help="events with this worker only")
    option("-n", type=int, metavar="N", dest="count", help="show N events (default: the last"
           f" {LAST}; with --from: all)")  # fmt: skip
    targets.add_flags(parser, targets.LOG_FLAGS)


def run(args: argparse.Namespace) -> int:
    if args.count is not None and args.count < 0:
        raise command.BadInput("-n: the number of events must not be negative")
    for pattern in args.types:
        if not any(fnmatchcase(kind, pattern) for kind in EVENT_TYPES):
            raise command.Refused(unknown_name("type of event", pattern, EVENT_TYPES))
    addresses = {
        "redis_url": targets.redis_url(args),
        "key_prefix": targets.key_prefix(args),
        "database_url": targets.optional_database_url(args),
    }
    options = msgspec.convert(vars(args) | addresses, TailOptions)
    with command.database_errors(options.database_url):
        asyncio.run(_print(options, as_json=is_json(args)))
    return 0


async def _print(options: TailOptions, *, as_json: bool) -> None:
    print_event = printer(event_cells, RecordedEvent.document, as_json=as_json)
    async for event in read_events(options):
        print_event(event)


async def read_events(options: TailOptions) -> AsyncGenerator[RecordedEvent, None]:
    """The requested events, in order."""
    from projector.intake.source import Source
    from projector.queries.views import Views

    source = Source(options.redis_url, options.key_prefix, block_seconds=options.block_seconds)
    archive = Views(options.database_url) if options.database_url else None
    try:
        if archive is not None:
            archive.open()
        streams = Streams(source, archive)
        found = await streams.problems([CATALOGUE])
        if found.get(CATALOGUE) == MISSING and (options.pools or not options.follow):
            raise command.Refused(
                "there is no log in this Redis: it was never created, or it is lost;"
                f" {RECOVERY_HINT}"
            )
        await _set_start_positions(streams, options)
        agent = await _full_id(archive, "agent", options.agent)
        worker = await _full_id(archive, "worker", options.worker)
        options = replace(options, agent=agent, worker=worker)
        await streams.print_problems()
        ends = await streams.ends()
        shown = 0
        async for event in _stored_events(streams, ends, options):
            yield event
            shown += 1
        if not options.follow or (options.start and shown == options.count):
            return
        async for event in streams.follow(new_pools=not options.pools):
            if options.matches(event):
                yield event
    finally:
        await source.close()
        if archive is not None:
            await archive.stop()


async def _full_id(archive: "Views | None", kind: str, text: str) -> str:
    """The id that is named by itself or by a part of it. Raises `Refused`, `BadInput`."""
    _, name = names.split_kind(text)
    if archive is None or not name:
        if name and not AGENT_ID.fullmatch(name.lower()):
            raise command.BadInput(
                f"--{kind}: a part of an id is looked up in the database: name it (--database-url)"
            )
        return name.lower()
    rows = await archive.find_ids(kind, name.lower(), limit=CANDIDATES_MAX)
    if not rows and AGENT_ID.fullmatch(name.lower()):  # it may be newer than the views
        return name.lower()
    return names.resolve_locally((names.Match(kind, *row) for row in rows), name, kind).name


async def _stored_events(
    streams: Streams, ends: dict[str, str], options: TailOptions
) -> AsyncIterator[RecordedEvent]:
    """The existing events: from the requested start, else the last few."""
    if not options.start:
        count = LAST if options.count is None else options.count
        for event in await streams.newest(ends, count, options.matches):
            yield event
        return
    position = _position(options.start)
    first_seq = position[1] if position else 0
    seen, shown = set(), 0
    async for event in streams.read_until(ends):
        if options.start == "0" and event.seq > 1 and event.pool not in seen:
            command.print_note(
                f"{event.pool}: events before {event.seq} are in the archive only (--database-url)"
            )
        seen.add(event.pool)
        if shown == options.count:
            return
        if options.matches(event) and event.seq >= first_seq:
            shown += 1
            yield event


def _position(start: str) -> tuple[str, int] | None:
    """`POOL:SEQ`; `14:03` is a time."""
    found = None if CLOCK.fullmatch(start) else POSITION.fullmatch(start)
    return (found[1], int(found[2])) if found else None


async def _set_start_positions(streams: Streams, options: TailOptions) -> None:
    """Set the position from which each stream is read."""
    position = _position(options.start)
    wanted = (position[0],) if position else options.pools
    known = [CATALOGUE, *await streams.pools()]
    for pool in wanted:
        if pool not in known:
            raise command.Refused(unknown_name("pool", pool, known))
    for pool in wanted or known:
        streams.positions[pool] = "0"
    if position:
        streams.positions[position[0]] = await streams.before_seq(*position)
    elif options.start not in ("", "0"):
        after = options.start
        if not STREAM_ID.fullmatch(after) or max(map(int, after.split("-"))) >= 2**64:
            alternative = "POOL:SEQ, or the id of an entry"
            after = before_ms(time_ms(after, "--from", alternative=alternative))
        streams.positions.update(dict.fromkeys(streams.positions, after))
