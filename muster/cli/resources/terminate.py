"""end agents

Ends agents for good: their `stop` is called first. One that has already ended is shown as it is.
Flags select many: their number has to be typed then, unless --yes is given.

  muster terminate 1a2c3d
  muster terminate 01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e --now
  muster terminate --project demo --state pending,restarting --dry-run
  muster terminate --pool developer_pool --label team=red --yes
"""

import argparse
from urllib.parse import quote

from eventstore.language.agents import TERMINAL
from muster.cli.arguments.command import Subparsers, declare
from muster.cli.client.api_client import BASE, Answer
from muster.cli.client.shapes import AgentAnswer
from muster.cli.resources.acting import Words, act_on_agents
from muster.cli.resources.agent_commands import CommandSender, add_command_flags
from muster.cli.resources.selection import STATES, Selected, add_selection_flags

LIVING = tuple(state for state in STATES if state not in TERMINAL)


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "terminate", run, __doc__)
    add_selection_flags(parser, pool="all agents of this pool; of agents that are named, their pool"
                        " (saves a look-up)")  # fmt: skip
    parser.add_argument("--now", action="store_true", help="do not call their `stop`")
    add_command_flags(parser, no_wait="do not wait for their end")


def run(args: argparse.Namespace) -> int:
    def terminate(sender: CommandSender, agent: Selected) -> Answer:
        pool = agent.pool_name
        if not pool:
            answer = sender.gateway.get(f"{BASE}/{quote(agent.agent_id)}")
            pool = answer.read(AgentAnswer).pool_name
        body = {"pool_name": pool, "agent_id": agent.agent_id, "graceful": not args.now}
        return sender.send("terminate", body)

    return act_on_agents(args, Words("terminating", "terminated"), LIVING, terminate)
