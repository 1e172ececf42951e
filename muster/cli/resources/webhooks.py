"""list, make and test webhooks, and see what could not be delivered

Lists where alerts are sent to; makes, changes and deletes webhooks, in addition to those in the
configuration file of the gateways; sends a test; lists the messages that could not be delivered and
are not tried any more, and sends them again or forgets them.

  muster webhooks                       where alerts are sent, and what waits
  muster webhooks new chat https://example.com/alerts --severity critical
  muster webhooks test ops
  muster webhooks dead                  what could not be delivered
  muster webhooks retry ops:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e
  muster webhooks drop ops:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e
"""

import argparse
import functools
from pathlib import Path
from typing import Any
from urllib.parse import quote

from muster.cli.arguments.command import (
    BadInput,
    CommandError,
    Subparsers,
    declare,
    print_error,
    print_note,
)
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import declare_action
from muster.cli.client.api_client import Answer, GatewayClient
from muster.cli.client.shapes import DeadLetterAnswer, WebhookAnswer, WebhookTestAnswer
from muster.cli.resources.listing import Column, Listing, add_list_flags
from muster.terminal import render

PATH = "/api/v1/webhooks"
ID = "ops:01936b3e-7c1f-7e60-9f52-8b0f9a1c2d3e"
ACTIONS = {
    "retry": ("send dead letters again", "POST", "/retry", "is sent again"),
    "drop": ("forget dead letters", "DELETE", "", "is forgotten"),
}
"""What each does, how it is called, and what is printed then."""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "webhooks", _list, __doc__)
    add_list_flags(parser)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    example = "muster webhooks new chat https://example.com/alerts --severity critical"
    new = declare_action(actions, "new", _new, "make a webhook; prints its secret", example)
    new.add_argument("name", metavar="NAME")
    new.add_argument(
        "address", metavar="ADDRESS", help="where messages are sent; it is not shown again"
    )
    _add_settings(new)
    example = "muster webhooks change chat --new-secret"
    change = declare_action(actions, "change", _change, "change a webhook", example)
    change.add_argument("name", metavar="NAME")
    change.add_argument("--address", metavar="ADDRESS", help="where messages are sent from now on")
    _add_settings(change)
    change.add_argument("--new-secret", action="store_true", help="make one, and print it; the one"
                        " before signs, too")  # fmt: skip
    example = "muster webhooks delete chat"
    delete = declare_action(actions, "delete", _delete, "delete a webhook", example)
    delete.add_argument("name", metavar="NAME")
    example = "muster webhooks test ops"
    test = declare_action(actions, "test", _test, "send a test message", example)
    test.add_argument("name", metavar="NAME", help="as listed")
    declare_action(
        actions, "dead", _dead, "list dead letters, oldest first", "muster webhooks dead",
        add_list_flags,
    )  # fmt: skip
    for name, (summary, method, suffix, done) in ACTIONS.items():
        run = functools.partial(_each, method, suffix, done)
        action = declare_action(actions, name, run, summary, f"muster webhooks {name} {ID}")
        action.add_argument("ids", nargs="+", metavar="ID", help="of dead letters, as listed")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--severity", choices=("warning", "critical"), help="the lowest")
    parser.add_argument("--pools", metavar="NAMES", help="with commas; empty: all")
    parser.add_argument("--secret-file", metavar="FILE", help="with a secret, or some")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What is named of a webhook."""
    named = {"url": args.address, "severity": args.severity}
    body: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if args.pools is not None:
        body["pools"] = [name.strip() for name in args.pools.split(",") if name.strip()]
    if args.secret_file is not None:
        try:
            body["secret"] = Path(args.secret_file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise BadInput(f"--secret-file: {args.secret_file}: {reason}") from None
    return body


def _new(args: argparse.Namespace) -> int:
    body = {"name": args.name, **_settings(args)}
    return _show(GatewayClient(args).call("POST", PATH, body=body), args, "is made")


def _change(args: argparse.Namespace) -> int:
    body = _settings(args) | ({"new_secret": True} if args.new_secret else {})
    if not body:
        raise BadInput("expected what to change, such as --severity critical")
    answer = GatewayClient(args).call("PATCH", f"{PATH}/{quote(args.name, safe='')}", body=body)
    return _show(answer, args, "is changed")


def _delete(args: argparse.Namespace) -> int:
    answer = GatewayClient(args).call("DELETE", f"{PATH}/{quote(args.name, safe='')}")
    return _show(answer, args, "is deleted")


def _show(answer: Answer, args: argparse.Namespace, done: str) -> int:
    """A secret that was made is all that is printed to standard output, for scripts."""
    if is_json(args):
        print_document(args, answer.document())
    elif secret := answer.read(WebhookAnswer).secret:
        print(secret)
        print_note(f"(the secret of webhook {args.name}, which {done}; it is not shown again)")
    else:
        print(f"webhook {args.name} {done}")
    return 0


def _list(args: argparse.Namespace) -> int:
    return WEBHOOKS.show(args, {})


def _dead(args: argparse.Namespace) -> int:
    return DEAD.show(args, {})


def _test(args: argparse.Namespace) -> int:
    """The exit code is 1 if it was not accepted."""
    answer = GatewayClient(args).call("POST", f"{PATH}/{quote(args.name, safe='')}/test")
    found = answer.read(WebhookTestAnswer)
    if is_json(args):
        print_document(args, answer.document())
    elif found.delivered:
        print(f"{args.name} accepted the test ({found.http_status}, {found.seconds:.2f} s)")
    else:
        print_error("webhooks", f"{args.name} did not accept the test: {found.error}")
    return 0 if found.delivered else 1


def _each(method: str, suffix: str, done: str, args: argparse.Namespace) -> int:
    gateway, code = GatewayClient(args), 0
    for dead_id in dict.fromkeys(args.ids):
        try:
            path = f"{PATH}/dead/{quote(dead_id, safe='')}{suffix}"
            answer = gateway.call(method, path)
        except CommandError as error:
            print_error("webhooks", f"{dead_id}: {error}")
            code = max(code, error.exit_code)
            continue
        print(render.json_line(answer.document()) if is_json(args) else f"{dead_id} {done}")
    return code


WEBHOOKS: Listing[WebhookAnswer] = Listing(
    path=PATH,
    name="webhooks",
    item=WebhookAnswer,
    columns=(
        Column("NAME", lambda one, _: one.name),
        Column("ADDRESS", lambda one, _: one.address),
        Column("FROM", lambda one, _: one.source, drop=3),
        Column("SEVERITY", lambda one, _: one.severity, drop=1),
        Column("POOLS", lambda one, _: ",".join(one.pools) or "all", drop=2),
        Column("WAITING", lambda one, _: str(one.waiting), right=True),
        Column("DEAD", lambda one, _: str(one.dead), right=True),
        Column("ERROR", lambda one, _: render.one_line(one.error)),
    ),
    identity=lambda one: one.name,
    empty="no webhooks; `muster webhooks new`, or [webhooks.NAME] in the configuration file of the"
    " gateways, adds one",
)
DEAD: Listing[DeadLetterAnswer] = Listing(
    path=f"{PATH}/dead",
    name="dead",
    item=DeadLetterAnswer,
    columns=(
        Column("ID", lambda one, _: one.id),
        Column("TYPE", lambda one, _: one.type),
        Column("AGE", lambda one, now: render.age(one.created_at, now), right=True),
        Column("ATTEMPTS", lambda one, _: str(one.attempts), right=True),
        Column("ERROR", lambda one, _: render.one_line(one.error)),
    ),
    identity=lambda one: one.id,
    empty="no dead letters",
)
