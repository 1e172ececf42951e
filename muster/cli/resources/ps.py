"""list agents, or show one

Lists agents, or shows one with its last error and its history.

  muster ps                                          all agents that have not ended
  muster ps --pool developer_pool --status pending   pending ones, with the reason
  muster ps --project demo --all                     a project's, also ended ones
  muster ps --watch                                  … refreshed
  muster ps --as-of 14:03 --all                      … at an earlier time; also -15m, POOL:SEQ
  muster ps 1a2c3d                                   one agent: last error, history
  muster ps -o wide --sort=-age                      all columns, the oldest first
  muster ps --project demo -o name | xargs muster terminate
"""

import argparse
from collections.abc import Mapping

from eventstore.language.agents import TERMINAL, Status
from eventstore.names import unknown_name
from muster.cli.arguments.command import BadInput, Refused, Subparsers, declare
from muster.cli.arguments.values import pairs
from muster.cli.client.api_client import BASE, GatewayClient
from muster.cli.client.names import full_id
from muster.cli.client.shapes import AgentAnswer
from muster.cli.resources.agent_detail import show_agent
from muster.cli.resources.listing import Column, Listing, add_list_flags
from muster.terminal import render

PAGE = 1000
LIMIT = 1000
LIMIT_MAX = 1_000_000_000
STATUSES = [status.value for status in Status]


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "ps", run, __doc__)
    option = parser.add_argument
    option("agent", nargs="?", metavar="AGENT", help="show this one in full: its id, or six or"
           " more characters of it")  # fmt: skip
    option("--pool", metavar="NAME", help="of this pool only")
    option("--project", metavar="ID", help="of this project only")
    option("--role", metavar="ROLE", help="of this role only")
    option("--status", metavar="STATUS", help="in these statuses only (with commas)")
    option("--worker", metavar="ID", help="of this worker only")
    option("--label", nargs=1, default=[], metavar="K=V", help="with this label only")
    option("-a", "--all", action="store_true", help="also those that have ended")
    option(
        "--limit", type=int, default=LIMIT, metavar="N", help=f"at most N agents (default {LIMIT})"
    )
    add_list_flags(parser)


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.limit <= LIMIT_MAX:
        raise BadInput(f"--limit: expected 1 to {LIMIT_MAX:,}")
    gateway = GatewayClient(args)
    if args.agent:
        return show_agent(gateway, full_id(gateway, "agent", args.agent), args)
    return AGENTS.show(args, _query(gateway, args), args.limit)


def _query(gateway: GatewayClient, args: argparse.Namespace) -> dict[str, str | int | None]:
    statuses = args.status.split(",") if args.status else []
    for status in statuses:
        if status not in STATUSES:
            raise Refused(unknown_name("status", status, STATUSES))
    ended = args.all or not TERMINAL.isdisjoint(statuses)
    label = "".join(f"{name}:{value}" for name, value in pairs(args.label, "--label").items())
    return {
        "pool_name": args.pool,
        "project_id": args.project,
        "role_type": args.role,
        "status": args.status,
        "process_id": full_id(gateway, "worker", args.worker) if args.worker else None,
        "label": label or None,
        "include_ended": "true" if ended else None,
        "limit": min(args.limit, PAGE),
    }


def labels_text(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def reason_text(agent: AgentAnswer) -> str:
    """Its reason and, where it failed, the error."""
    failed = agent.status in ("restarting", "failed", "pending") or agent.reason == "lost"
    if agent.last_error is None or not failed:
        return agent.reason
    if agent.reason.startswith("unavailable"):  # it says so
        return agent.reason
    error = f"{agent.last_error.type}: {agent.last_error.message}"
    return f"{agent.reason} ({error[:120]})" if agent.reason else error[:120]


AGENTS: Listing[AgentAnswer] = Listing(
    path=BASE,
    name="agents",
    item=AgentAnswer,
    columns=(
        Column("AGENT", lambda agent, _: render.id_cell(agent.agent_id)),
        Column("POOL", lambda agent, _: agent.pool_name, drop=1),
        Column("ROLE", lambda agent, _: agent.role_type, drop=6),
        Column("PROJECT", lambda agent, _: agent.project_id, drop=3),
        Column("STATUS", lambda agent, _: render.status(agent.status)),
        Column("ACTIVITY", lambda agent, _: agent.activity, drop=5),
        Column("WORKER", lambda agent, _: render.id_cell(agent.process_id), drop=2),
        Column("INC", lambda agent, _: str(agent.incarnation), right=True, drop=4),
        Column(
            "AGE",
            lambda agent, now: render.age(agent.created_at, now),
            right=True,
            key=lambda agent: -agent.created_at,
        ),
        Column("LABELS", lambda agent, _: labels_text(agent.labels), wide=True),
        Column("REASON", lambda agent, _: render.Cell(reason_text(agent), "dim")),
    ),
    identity=lambda agent: agent.agent_id,
    empty="no agents",
)
