"""`muster ps`: who runs where, why, and since when; one agent in full where its id is given."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Subparsers, declare, print_note
from muster.cli.arguments.values import agent_id, seconds
from muster.cli.client.api_client import BASE, Answer, GatewayClient, Query
from muster.cli.client.as_of import add_as_of_flag, as_of, as_of_ms
from muster.cli.client.refresh import show_live
from muster.cli.client.shapes import AgentAnswer, AgentPage
from muster.cli.resources.agent_detail import show_agent
from muster.terminal import render

EXAMPLES = """\
  muster ps                                          all agents that have not ended
  muster ps --pool developer_pool --status pending   who waits, and what for
  muster ps --project demo --all                     a project's, ended ones too
  muster ps --watch                                  … as it changes
  muster ps --as-of 14:03 --all                      … as it was then; also -15m, POOL:SEQ
  muster ps 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e     one agent: last error, history
  muster ps --json | jq -r '.[].agent_id'
"""
PAGE = 1000
LIMIT = 1000
LIMIT_MAX = 1_000_000_000
COLUMNS = (
    render.Column("AGENT"),
    render.Column("POOL", drop=1),
    render.Column("ROLE", drop=6),
    render.Column("PROJECT", drop=3),
    render.Column("STATUS"),
    render.Column("ACTIVITY", drop=5),
    render.Column("WORKER", drop=2),
    render.Column("INC", right=True, drop=4),
    render.Column("AGE", right=True),
    render.Column("REASON"),
)


def add(subparsers: Subparsers) -> None:
    parser = declare(
        subparsers,
        "ps",
        run,
        summary="list agents, or show one",
        description="Lists agents, or shows one with its last error and its history.",
        examples=EXAMPLES,
    )
    parser.add_argument("agent", nargs="?", metavar="AGENT", help="show this one in full")
    parser.add_argument("--pool", metavar="NAME", help="of this pool only")
    parser.add_argument("--project", metavar="ID", help="of this project only")
    parser.add_argument("--role", metavar="ROLE", help="of this role only")
    parser.add_argument("--status", metavar="STATUS", help="in this status only")
    parser.add_argument("--worker", metavar="ID", help="held by this worker only")
    parser.add_argument("--label", metavar="K=V", help="with this label only")
    parser.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="N",
                        help=f"so many at most (default {LIMIT})")  # fmt: skip
    add_as_of_flag(parser)
    parser.add_argument("-w", "--watch", action="store_true", help="show it again as it changes")
    parser.add_argument("--interval", default="2", metavar="S", help="seconds between two looks")
    targets.add_service_flags(parser)


def run(args: argparse.Namespace) -> int:
    gateway = GatewayClient(targets.service(args))
    if args.as_of and args.watch:
        raise BadInput("--as-of: what was does not change; leave out --watch")
    if args.agent:
        return show_agent(gateway, agent_id(args.agent), args)
    if not 1 <= args.limit <= LIMIT_MAX:
        raise BadInput(f"--limit: expected 1 to {LIMIT_MAX:,}")
    query = _query(args)
    if args.watch:
        return _watch(gateway, query, args)
    first = _first(gateway, query, args.limit)
    now_ms = as_of_ms(first)
    found = list(islice(_pages(gateway, first, args.limit), args.limit))
    if args.json:
        render.print_json(found)
        return 0
    _show([_read(raw) for raw in found], limit=args.limit, now_ms=now_ms)
    return 0


def _query(args: argparse.Namespace) -> dict[str, str | int | None]:
    ended = args.all or args.status in ("terminated", "failed")
    label = args.label
    if label is not None and "=" not in label:
        raise BadInput(f"--label: {label!r} is not of the form name=value")
    return {
        "pool_name": args.pool,
        "project_id": args.project,
        "role_type": args.role,
        "status": args.status,
        "process_id": args.worker,
        "label": label.replace("=", ":", 1) if label else None,
        "include_ended": "true" if ended else None,
        "as_of": as_of(args),
    }


def agents(gateway: GatewayClient, query: Query, limit: int) -> Iterator[msgspec.Raw]:
    """Agents as the gateway lists them, page after page."""
    return islice(_pages(gateway, _first(gateway, query, limit), limit), limit)


def _first(gateway: GatewayClient, query: Query, limit: int) -> Answer:
    return gateway.get(BASE, {**query, "limit": min(limit, PAGE)})


def _pages(gateway: GatewayClient, first: Answer, limit: int) -> Iterator[msgspec.Raw]:
    page = first.read(AgentPage)
    for _ in range(limit):  # a page has an agent or is the last: no more pages than agents
        yield from page.agents
        if not page.next:
            return
        page = gateway.follow(page.next).read(AgentPage)


def _read(raw: msgspec.Raw) -> AgentAnswer:
    return msgspec.json.decode(raw, type=AgentAnswer)


def _show(found: Sequence[AgentAnswer], *, limit: int, now_ms: float) -> None:
    if found:
        render.show(table(found, now_ms))
    else:
        print_note("no agents")
    if len(found) == limit:
        print_note(f"({limit} shown; --limit for more)")


def table(found: Sequence[AgentAnswer], now_ms: float | None = None) -> render.Table:
    """`now_ms`: when ages are counted to, in ms since 1970; None: until now."""
    now_ms = time.time() * 1000 if now_ms is None else now_ms
    return render.Table(COLUMNS, [_row(agent, now_ms) for agent in found])


def _row(agent: AgentAnswer, now_ms: float) -> render.Row:
    worker = render.short_id(agent.process_id) if render.at_terminal() else agent.process_id
    return (
        agent.agent_id,
        agent.pool_name,
        agent.role_type,
        agent.project_id,
        render.status(agent.status),
        agent.activity,
        worker,
        str(agent.incarnation),
        render.age(agent.created_at, now_ms),
        render.Cell(reason_text(agent), "dim"),
    )


def reason_text(agent: AgentAnswer) -> str:
    """Its reason and, where it failed, with what."""
    failed = agent.status in ("restarting", "failed", "pending") or agent.reason == "lost"
    if agent.last_error is None or not failed:
        return agent.reason
    error = f"{agent.last_error.type}: {agent.last_error.message}"
    return f"{agent.reason} ({error[:120]})" if agent.reason else error[:120]


def _watch(gateway: GatewayClient, query: Query, args: argparse.Namespace) -> int:
    """At a terminal the list again and again; in a pipe every agent whenever it has changed."""
    interval = max(seconds(args.interval, "--interval"), 0.1)
    if render.at_terminal() and not args.json:
        gateway.caller_shows_staleness = True
        return show_live(
            lambda: table(_all(gateway, query, args.limit)), interval, lambda: gateway.stale_reason
        )
    shown: dict[str, AgentAnswer] = {}
    while True:
        changed = [
            (agent, raw)
            for raw in agents(gateway, query, args.limit)
            if not _same(shown.get((agent := _read(raw)).agent_id), agent)
        ]
        shown.update((agent.agent_id, agent) for agent, _ in changed)
        if args.json:
            sys.stdout.writelines(f"{render.json_line(raw)}\n" for _, raw in changed)
        elif changed:
            lines = render.plain(table([agent for agent, _ in changed]))
            print("\n".join(lines[1 if len(shown) > len(changed) else 0 :]))
        sys.stdout.flush()
        time.sleep(interval)


def _all(gateway: GatewayClient, query: Query, limit: int) -> list[AgentAnswer]:
    return [_read(raw) for raw in agents(gateway, query, limit)]


def _same(before: AgentAnswer | None, now: AgentAnswer) -> bool:
    """Whether nothing has changed but the time of the last heartbeat."""
    return before is not None and msgspec.structs.replace(
        before, last_heartbeat=0
    ) == msgspec.structs.replace(now, last_heartbeat=0)
