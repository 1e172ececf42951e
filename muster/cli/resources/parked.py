"""`muster parked`: lists agents that cannot be read, restores them or ends them."""

import argparse
from urllib.parse import quote

from muster.cli.arguments.command import CommandError, Subparsers, declare, print_error
from muster.cli.arguments.targets import add_service_flags, service
from muster.cli.client.api_client import PARKED, GatewayClient
from muster.cli.client.shapes import ParkedAnswer, ParkedPage
from muster.cli.resources.listing import Column, Listing
from muster.terminal import render

HELP = """\
list, retry or drop agents that cannot be read

Lists the agents whose state in Redis cannot be read, with the reason; restores them from their
events, or ends them.

  muster parked                                 what is parked, and why
  muster parked list --json | jq '.[].content'
  muster parked retry developer_pool:agent:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e
  muster parked drop developer_pool:agent:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e
"""
LIST_HELP = """\
list what is parked

Lists what is parked, the oldest first.

  muster parked list --pool developer_pool
"""
EXAMPLE_ID = "developer_pool:agent:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"
_FORGOTTEN = "was removed"
"""For entries of the previous version that are no agents: these are never restored."""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "parked", _list, HELP)
    add_service_flags(parser)
    parser.set_defaults(pool=None)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    listing = declare(actions, "list", _list, LIST_HELP)
    listing.add_argument("--pool", metavar="NAME", help="of this pool only")
    add_service_flags(listing, argparse.SUPPRESS)
    for name, run, summary in (
        ("retry", _retry, "restore parked agents"),
        ("drop", _drop, "end parked agents"),
    ):
        text = f"{summary}\n\n{summary.capitalize()}.\n\n  muster parked {name} {EXAMPLE_ID}\n"
        action = declare(actions, name, run, text)
        action.add_argument("ids", nargs="+", metavar="ID", help="as listed")
        add_service_flags(action, argparse.SUPPRESS)


def _list(args: argparse.Namespace) -> int:
    return PARKED_ITEMS.show(GatewayClient(service(args)), args, {"pool_name": args.pool})


def _retry(args: argparse.Namespace) -> int:
    return _each(args, "POST", "/retry", "was restored")


def _drop(args: argparse.Namespace) -> int:
    return _each(args, "DELETE", "", "was ended")


def _each(args: argparse.Namespace, method: str, suffix: str, done: str) -> int:
    gateway = GatewayClient(service(args))
    code = 0
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
    page=ParkedPage,
    item=ParkedAnswer,
    columns=(
        Column("ID", lambda one, _: one.id),
        Column("AGE", lambda one, now: render.age(one.parked_at, now), right=True),
        Column("REASON", lambda one, _: one.reason),
    ),
    empty="nothing is parked",
)
