"""list, retry or drop agents that cannot be read

Lists the agents whose state in Redis cannot be read, with the reason; restores them from their
events, or ends them.

  muster parked                                 what is parked, and why
  muster parked list --json | jq '.[].content'
  muster parked retry developer_pool:agent:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e
  muster parked drop developer_pool:agent:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e
"""

import argparse
import functools
from urllib.parse import quote

from muster.cli.arguments.command import CommandError, Refused, Subparsers, declare, print_error
from muster.cli.arguments.output import is_json
from muster.cli.arguments.targets import declare_action
from muster.cli.client.api_client import PARKED, GatewayClient
from muster.cli.client.names import ID_PART, full_id
from muster.cli.client.shapes import ParkedAnswer
from muster.cli.resources.listing import Column, Listing, add_list_flags
from muster.terminal import render

ID = "developer_pool:agent:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"
ACTIONS = {
    "retry": ("restore parked agents", "POST", "/retry", "was restored"),
    "drop": ("end parked agents", "DELETE", "", "was ended"),
}
"""What each does, how it is called, and what is printed then."""
_FORGOTTEN = "was removed"
"""For entries of the previous version that are no agents: these are never restored."""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "parked", _list, __doc__)
    add_list_flags(parser)
    parser.set_defaults(pool=None)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    example = "muster parked list --pool developer_pool"
    listing = declare_action(
        actions, "list", _list, "list what is parked, oldest first", example, add_list_flags
    )
    listing.add_argument("--pool", metavar="NAME", help="of this pool only")
    for name, (summary, method, suffix, done) in ACTIONS.items():
        run, example = functools.partial(_each, method, suffix, done), f"muster parked {name} {ID}"
        action = declare_action(actions, name, run, summary, example)
        action.add_argument(
            "ids", nargs="+", metavar="ID", help="as listed, or an agent's id or part of it"
        )


def _list(args: argparse.Namespace) -> int:
    return PARKED_ITEMS.show(args, {"pool_name": args.pool})


def _entry_id(gateway: GatewayClient, text: str) -> str:
    """An id as listed, or that of the parked agent that has this (part of an) id."""
    if not ID_PART.fullmatch(text.lower()):
        return text
    agent = full_id(gateway, "agent", text)
    parked = map(PARKED_ITEMS.read, PARKED_ITEMS.items(gateway, {}, None))
    found = next((one.id for one in parked if (one.source, one.subject) == ("agent", agent)), "")
    if not found:
        raise Refused(f"agent {agent} is not parked")
    return found


def _each(method: str, suffix: str, done: str, args: argparse.Namespace) -> int:
    gateway, code = GatewayClient(args), 0
    for entry_id in dict.fromkeys(_entry_id(gateway, text) for text in args.ids):
        try:
            path = f"{PARKED}/{quote(entry_id, safe='')}{suffix}"
            answer = gateway.call(method, path, body={} if method == "POST" else None)
        except CommandError as error:
            print_error("parked", f"{entry_id}: {error}")
            code = max(code, error.exit_code)
            continue
        if is_json(args):
            print(render.json_line(answer.document()))
        else:
            is_agent = answer.read(ParkedAnswer).source == "agent"
            print(f"{entry_id} {done if is_agent else _FORGOTTEN}")
    return code


PARKED_ITEMS: Listing[ParkedAnswer] = Listing(
    path=PARKED,
    name="parked",
    item=ParkedAnswer,
    columns=(
        Column("ID", lambda one, _: one.id),
        Column("AGE", lambda one, now: render.age(one.parked_at, now), right=True),
        Column("REASON", lambda one, _: one.reason),
    ),
    identity=lambda one: one.id,
    empty="nothing is parked",
)
