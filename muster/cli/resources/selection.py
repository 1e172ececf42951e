"""Which agents a command is for: by id, or all that some flags select.

Agents that are selected by flags are counted first. At a terminal that number has to be typed;
elsewhere `--yes` confirms. `--dry-run` lists them, and nothing is done.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from eventstore.language.agents import TERMINAL, Status
from eventstore.names import unknown_name
from muster.cli.arguments.command import BadInput, Refused, print_note
from muster.cli.arguments.values import pairs
from muster.cli.client.api_client import GatewayClient, Query
from muster.cli.client.names import full_id, require_known
from muster.cli.resources.ps import AGENTS, PAGE
from muster.terminal import render

SELECTED_MAX: Final = 10_000
"""So many agents at most are selected by flags: more are probably a mistake."""
FLAGS: Final = ("pool", "project", "role", "label", "state")
STATES: Final = tuple(status.value for status in Status)


class Selected(msgspec.Struct, frozen=True):
    """An agent that was named or selected. What was not looked up is empty."""

    agent_id: str
    pool_name: str = ""
    row: msgspec.Raw | None = None


def add_selection_flags(parser: argparse.ArgumentParser, *, pool: str) -> None:
    """Ids of agents, or which ones; `pool`: the help of `--pool`."""
    option = parser.add_argument
    option("agents", nargs="*", metavar="AGENT", help="an agent's id, or six or more characters of"
           " its beginning or end")  # fmt: skip
    option("--pool", default="", metavar="NAME", help=pool)
    option("--project", default="", metavar="ID", help="all agents of this project")
    option("--role", default="", metavar="ROLE", help="all agents of this role")
    option("--label", nargs=1, default=[], metavar="K=V", help="all agents with this label")
    option("--state", "--status", default="", metavar="STATE", help="all agents in this state"
           f" (with commas: in one of these): {', '.join(STATES)}")  # fmt: skip
    option("-n", "--dry-run", action="store_true", help="list the agents, and do nothing")
    option("-y", "--yes", action="store_true", help="do not ask for their number")


def is_selective(args: argparse.Namespace) -> bool:
    """Whether flags select the agents; else they are named. Raises `BadInput`."""
    flags = [name for name in FLAGS if getattr(args, name)]
    if args.agents and set(flags) - {"pool"}:
        raise BadInput(f"expected either agents or --{flags[-1]}, not both")
    if not args.agents and not flags:
        raise BadInput(
            f"expected agents, or one or more of {', '.join(f'--{name}' for name in FLAGS)}"
        )
    return not args.agents


def select(
    gateway: GatewayClient, args: argparse.Namespace, states: Sequence[str]
) -> list[Selected]:
    """The agents, each once. `states`: those that are meant where none is named.

    Raises `BadInput`, and `Refused` where a name in a flag is of nothing.
    """
    if not is_selective(args):
        ids = dict.fromkeys(full_id(gateway, "agent", text) for text in args.agents)
        return [Selected(agent_id, args.pool) for agent_id in ids]
    query = _query(args, states)
    found = list(AGENTS.items(gateway, query, SELECTED_MAX + 1))
    if not found:
        require_known(gateway, query)
    if len(found) > SELECTED_MAX:
        raise Refused(f"these are more than {SELECTED_MAX:,} agents; select fewer of them")
    agents = zip(map(AGENTS.read, found), found, strict=True)
    return [Selected(agent.agent_id, agent.pool_name, row) for agent, row in agents]


def _query(args: argparse.Namespace, states: Sequence[str]) -> Query:
    wanted = args.state.split(",") if args.state else list(states)
    for state in wanted:
        if state not in STATES:
            raise Refused(unknown_name("state", state, STATES))
    label = "".join(f"{name}:{value}" for name, value in pairs(args.label, "--label").items())
    return {
        "pool_name": args.pool or None,
        "project_id": args.project or None,
        "role_type": args.role or None,
        "status": ",".join(wanted),
        "label": label or None,
        "include_ended": None if TERMINAL.isdisjoint(wanted) else "true",
        "limit": PAGE,
    }


def list_selected(
    gateway: GatewayClient, args: argparse.Namespace, selected: Sequence[Selected], done: str
) -> int:
    """What `--dry-run` prints; returns the exit code. `done`: `terminated`."""
    rows = [
        one.row or msgspec.Raw(gateway.get(f"{AGENTS.path}/{one.agent_id}").body)
        for one in selected
    ]
    if rows:
        AGENTS.print_items(rows, args)
    print_note(f"({render.count(len(selected), 'agent')} would be {done}; nothing was done)")
    return 0


def require_confirmation(number: int, args: argparse.Namespace, done: str) -> None:
    """Let the number be typed. Raises `BadInput` where there is no terminal, `Refused`."""
    if args.yes:
        return
    would = f"{render.count(number, 'agent')} would be {done}"
    if not sys.stdin.isatty():
        raise BadInput(f"{would}: --yes does it without asking, --dry-run lists them")
    print(f"{would}. Type their number to go on: ", end="", file=sys.stderr, flush=True)
    typed = sys.stdin.readline().strip().replace(",", "")
    if typed != str(number):
        raise Refused(f"{typed or 'nothing'} is not {number:,}: no agent was {done}")
