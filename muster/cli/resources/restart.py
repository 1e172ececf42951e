"""start agents again

Brings back agents that have failed, with their id, input and labels. One that waits for its
back-off starts at once; one that runs is stopped in good order and started again. What was
terminated stays so. Flags select many: their number has to be typed then, unless --yes is given.

  muster restart 1a2c3d
  muster restart --failed --dry-run
  muster restart --failed --pool developer_pool --reason 'the model is back'
  muster restart --pool developer_pool --label team=red --yes
  muster restart 1a2c3d --discard-state
"""

import argparse
from typing import Final
from urllib.parse import quote

from muster.cli.arguments.command import BadInput, Subparsers, declare
from muster.cli.client.api_client import Answer
from muster.cli.resources.acting import Words, act_on_agents
from muster.cli.resources.agent_commands import CommandSender, add_command_flags
from muster.cli.resources.selection import Selected, add_selection_flags

RESTARTABLE: Final = ("starting", "running", "restarting", "failed")
"""States in which an agent can be started again."""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "restart", run, __doc__)
    add_selection_flags(parser, pool="all agents of this pool")
    parser.add_argument("--failed", action="store_const", const="failed", dest="state",
                        help="all agents that have failed; as --state failed")  # fmt: skip
    parser.add_argument("--discard-state", action="store_true", help="delete what the agents have"
                        " saved, and start them without")  # fmt: skip
    parser.add_argument("--reason", default="", metavar="TEXT", help="recorded with the request")
    add_command_flags(parser, no_wait="do not wait for their start")


def run(args: argparse.Namespace) -> int:
    if args.agents and args.pool:
        raise BadInput("expected either agents or --pool, not both")
    if args.discard_state and not args.agents:
        raise BadInput("--discard-state: expected the agents whose state is to be deleted")
    body: dict[str, object] = {"reason": args.reason} if args.reason else {}
    if args.discard_state:
        body["discard_state"] = True

    def restart(sender: CommandSender, agent: Selected) -> Answer:
        return sender.send(f"{quote(agent.agent_id)}/restart", body)

    return act_on_agents(args, Words("restarting", "restarted"), RESTARTABLE, restart)
