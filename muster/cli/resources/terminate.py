"""end agents

Ends agents for good: their `stop` is called first. One that has already ended is shown as it is.

  muster terminate 1a2c3d
  muster terminate 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e --now
  muster ps --project demo -o name | xargs muster terminate --no-wait
"""

import argparse
from urllib.parse import quote

from muster.cli.arguments.command import Subparsers, declare
from muster.cli.client.api_client import BASE, Answer
from muster.cli.client.names import full_id
from muster.cli.client.shapes import AgentAnswer
from muster.cli.resources.agent_commands import CommandSender, add_command_flags, run_all


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "terminate", run, __doc__)
    parser.add_argument("agents", nargs="+", metavar="AGENT", help="an agent's id, or"
                        " six or more characters of its beginning or end")  # fmt: skip
    parser.add_argument("--pool", default="", metavar="NAME", help="their pool (saves a look-up)")
    parser.add_argument("--now", action="store_true", help="do not call their `stop`")
    add_command_flags(parser, no_wait="do not wait for their end")


def run(args: argparse.Namespace) -> int:
    sender = CommandSender(args)
    ids = list(dict.fromkeys(full_id(sender.gateway, "agent", text) for text in args.agents))

    def terminate(agent: str) -> Answer:
        pool = args.pool
        if not pool:
            pool = sender.gateway.get(f"{BASE}/{quote(agent)}").read(AgentAnswer).pool_name
        body = {"pool_name": pool, "agent_id": agent, "graceful": not args.now}
        return sender.send("terminate", body)

    return run_all(args, terminate, ids, ("AGENT", "STATUS", "REASON"))
