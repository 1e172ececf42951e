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

from muster.cli.arguments.command import CommandError, Subparsers, declare, print_error
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags, declare_action
from muster.cli.client.api_client import PARKED, GatewayClient
from muster.cli.client.shapes import ParkedAnswer
from muster.cli.resources.listing import Column, Listing
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
    add_flags(parser, SERVICE_FLAGS)
    parser.set_defaults(pool=None, as_of=None)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    example = "muster parked list --pool developer_pool"
    listing = declare_action(actions, "list", _list, "list what is parked, oldest first", example)
    listing.add_argument("--pool", metavar="NAME", help="of this pool only")
    for name, (summary, method, suffix, done) in ACTIONS.items():
        run, example = functools.partial(_each, method, suffix, done), f"muster parked {name} {ID}"
        action = declare_action(actions, name, run, summary, example)
        action.add_argument("ids", nargs="+", metavar="ID", help="as listed")


def _list(args: argparse.Namespace) -> int:
    return PARKED_ITEMS.show(args, {"pool_name": args.pool})


def _each(method: str, suffix: str, done: str, args: argparse.Namespace) -> int:
    gateway, code = GatewayClient(args), 0
    for entry_id in dict.fromkeys(args.ids):
        try:
            path = f"{PARKED}/{quote(entry_id, safe='')}{suffix}"
            answer = gateway.call(method, path, body={} if method == "POST" else None)
        except CommandError as error:
            print_error("parked", f"{entry_id}: {error}")
            code = max(code, error.exit_code)
            continue
        if args.json:
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
    empty="nothing is parked",
)
