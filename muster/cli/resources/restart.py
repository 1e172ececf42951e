"""start agents again

Brings back agents that have failed, with their id, input and labels. One that waits for its
back-off starts at once; one that runs is stopped in good order and started again. What was
terminated stays so.

  muster restart 1a2c3d
  muster restart --failed
  muster restart --failed --pool developer_pool --reason 'the model is back'
  muster restart --pool developer_pool
  muster restart 1a2c3d --discard-state
"""

import argparse
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from muster.cli.arguments.command import BadInput, Subparsers, declare, print_note
from muster.cli.client.api_client import Answer, GatewayClient, Query
from muster.cli.client.names import full_id, require_known
from muster.cli.resources.agent_commands import CommandSender, add_command_flags, run_all
from muster.cli.resources.ps import AGENTS, PAGE

RESTARTABLE: Final = "starting,running,restarting,failed"
"""Statuses in which an agent can be started again."""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "restart", run, __doc__)
    parser.add_argument("agents", nargs="*", metavar="AGENT", help="an agent's id, or"
                        " six or more characters of its beginning or end")  # fmt: skip
    parser.add_argument("--pool", default="", metavar="NAME", help="all agents of this pool")
    parser.add_argument("--failed", action="store_true", help="all agents that have failed")
    parser.add_argument("--discard-state", action="store_true", help="delete what the agents have"
                        " saved, and start them without")  # fmt: skip
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded with the request")
    add_command_flags(parser, no_wait="do not wait for their start")


def run(args: argparse.Namespace) -> int:
    if bool(args.agents) == bool(args.pool or args.failed):
        raise BadInput("expected agents, or --failed, or --pool (with --failed: those of the pool)")
    if args.discard_state and not args.agents:
        raise BadInput("--discard-state: expected the agents whose state is to be deleted")
    sender = CommandSender(args)
    ids = list(dict.fromkeys(_ids(sender.gateway, args)))
    body: dict[str, object] = {"reason": args.reason} if args.reason else {}
    if args.discard_state:
        body["discard_state"] = True

    def restart(agent: str) -> Answer:
        return sender.send(f"{quote(agent)}/restart", body)

    return run_all(args, restart, ids, ("AGENT", "STATUS", "REASON"))


def _ids(gateway: GatewayClient, args: argparse.Namespace) -> Iterator[str]:
    """The agents that are named, or all of a pool or status."""
    if args.agents:
        yield from (full_id(gateway, "agent", text) for text in args.agents)
        return
    status = "failed" if args.failed else RESTARTABLE
    query: Query = {"pool_name": args.pool or None, "status": status, "limit": PAGE}
    found = [AGENTS.read(raw).agent_id for raw in AGENTS.items(gateway, query, None)]
    if not found:
        require_known(gateway, query)
        print_note("no agents to restart")
    yield from found
