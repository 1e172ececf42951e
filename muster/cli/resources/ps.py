"""list agents, or show one

Lists agents, or shows one with its last error and its history.

  muster ps                                          all agents that have not ended
  muster ps --pool developer_pool --status pending   pending ones, with the reason
  muster ps --project demo --all                     a project's, also ended ones
  muster ps --watch                                  … refreshed
  muster ps --as-of 14:03 --all                      … at an earlier time; also -15m, POOL:SEQ
  muster ps 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e     one agent: last error, history
  muster ps --json | jq -r '.[].agent_id'
"""

import argparse
import sys
import time

import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from muster.cli.arguments.command import BadInput, ServiceUnreachable, Subparsers, declare
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.arguments.values import agent_id, seconds
from muster.cli.client.api_client import BASE, GatewayClient, Query
from muster.cli.client.shapes import AgentAnswer
from muster.cli.resources.agent_detail import ENDED, show_agent
from muster.cli.resources.listing import Column, Listing, add_as_of_flag, id_text
from muster.terminal import render

PAGE = 1000
LIMIT = 1000
LIMIT_MAX = 1_000_000_000


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "ps", run, __doc__)
    option = parser.add_argument
    option("agent", nargs="?", metavar="AGENT", help="show this one in full")
    option("--pool", metavar="NAME", help="of this pool only")
    option("--project", metavar="ID", help="of this project only")
    option("--role", metavar="ROLE", help="of this role only")
    option("--status", metavar="STATUS", help="in this status only")
    option("--worker", metavar="ID", help="of this worker only")
    option("--label", metavar="K=V", help="with this label only")
    option("-a", "--all", action="store_true", help="also those that have ended")
    option(
        "--limit", type=int, default=LIMIT, metavar="N", help=f"at most N agents (default {LIMIT})"
    )
    add_as_of_flag(parser)
    option("-w", "--watch", action="store_true", help="refresh the list")
    option("--interval", default="2", metavar="S", help="seconds between refreshes")
    add_flags(parser, SERVICE_FLAGS)


def run(args: argparse.Namespace) -> int:
    if args.as_of and args.watch:
        raise BadInput("--as-of: the past does not change; leave out --watch")
    if args.agent:
        return show_agent(agent_id(args.agent), args)
    if not 1 <= args.limit <= LIMIT_MAX:
        raise BadInput(f"--limit: expected 1 to {LIMIT_MAX:,}")
    if args.watch:
        return _watch(_query(args), args)
    return AGENTS.show(args, _query(args), args.limit)


def _query(args: argparse.Namespace) -> dict[str, str | int | None]:
    ended = args.all or args.status in ENDED
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
        "limit": min(args.limit, PAGE),
    }


def reason_text(agent: AgentAnswer) -> str:
    """Its reason and, where it failed, the error."""
    failed = agent.status in ("restarting", "failed", "pending") or agent.reason == "lost"
    if agent.last_error is None or not failed:
        return agent.reason
    error = f"{agent.last_error.type}: {agent.last_error.message}"
    return f"{agent.reason} ({error[:120]})" if agent.reason else error[:120]


AGENTS: Listing[AgentAnswer] = Listing(
    path=BASE,
    name="agents",
    item=AgentAnswer,
    columns=(
        Column("AGENT", lambda agent, _: agent.agent_id),
        Column("POOL", lambda agent, _: agent.pool_name, drop=1),
        Column("ROLE", lambda agent, _: agent.role_type, drop=6),
        Column("PROJECT", lambda agent, _: agent.project_id, drop=3),
        Column("STATUS", lambda agent, _: render.status(agent.status)),
        Column("ACTIVITY", lambda agent, _: agent.activity, drop=5),
        Column("WORKER", lambda agent, _: id_text(agent.process_id), drop=2),
        Column("INC", lambda agent, _: str(agent.incarnation), right=True, drop=4),
        Column("AGE", lambda agent, now: render.age(agent.created_at, now), right=True),
        Column("REASON", lambda agent, _: render.Cell(reason_text(agent), "dim")),
    ),
    empty="no agents",
)


def _watch(query: Query, args: argparse.Namespace) -> int:
    """Refresh the list at a terminal; in a pipe print each agent whenever it has changed."""
    gateway, interval = GatewayClient(args), max(seconds(args.interval, "--interval"), 0.1)
    if render.at_terminal() and not args.json:
        return _show_live(gateway, query, args.limit, interval)
    shown: dict[str, AgentAnswer] = {}
    while True:
        changed = []
        for raw in AGENTS.items(gateway, query, args.limit):
            agent = AGENTS.read(raw)
            state = msgspec.structs.replace(agent, last_heartbeat=0)  # a heartbeat is no change
            if shown.get(agent.agent_id) != state:
                shown[agent.agent_id] = state
                changed.append((agent, raw))
        if args.json:
            sys.stdout.writelines(f"{render.json_line(raw)}\n" for _, raw in changed)
        elif changed:
            table = AGENTS.table([agent for agent, _ in changed], time.time() * 1000)
            print("\n".join(render.plain(table, header=len(shown) == len(changed))))
        sys.stdout.flush()
        time.sleep(interval)


def _show_live(gateway: GatewayClient, query: Query, limit: int, interval: float) -> int:
    """Refresh until Ctrl-C. Without an answer, keep the last table and show a warning."""
    gateway.caller_shows_staleness = True
    screen = render.console()

    def fetch() -> list[Text]:
        agents = [AGENTS.read(raw) for raw in AGENTS.items(gateway, query, limit)]
        return render.styled(AGENTS.table(agents, time.time() * 1000), screen.width)

    shown = fetch()
    with Live(console=screen, auto_refresh=False, screen=True) as live:
        warning = gateway.stale_reason
        while True:
            height = max(screen.height - 2, 1)
            heading = Text(time.strftime("%H:%M:%S") + (f"   {warning}" if warning else ""), "dim")
            live.update(Group(heading, *shown[:height]), refresh=True)
            time.sleep(interval)
            try:
                shown, warning = fetch(), gateway.stale_reason
            except ServiceUnreachable as error:
                warning = render.one_line(str(error))
