"""create, list, rotate or revoke tokens

Creates a token for a caller of the service and prints its secret, which is shown only once. Lists
the tokens, gives one a new secret (the one before stays valid for a while), or revokes one. This
needs a token with the scope `admin`, or that of the service.

  muster token new ci --may read,spawn --pools developer_pool --projects demo
  muster token new grafana --may read --expires 90d
  muster token                                  all tokens, without their secrets
  muster token rotate ci --overlap 1h
  muster token revoke ci
"""

import argparse
import time
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from muster.cli.arguments.command import BadInput, Subparsers, declare, print_note
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import declare_action
from muster.cli.arguments.values import span
from muster.cli.client.api_client import TOKENS as PATH
from muster.cli.client.api_client import Answer, GatewayClient
from muster.cli.resources.listing import Column, Listing, add_list_flags
from muster.terminal import render


class SecretAnswer(Struct, frozen=True, kw_only=True):
    created_at: int = 0
    expires_at: int | None = None


class TokenAnswer(Struct, frozen=True, kw_only=True):
    """A token as the gateway answers it; `token` is the secret of a new one."""

    name: str = ""
    scopes: list[str] = []
    pools: list[str] | None = None
    projects: list[str] | None = None
    secrets: list[SecretAnswer] = []
    actor: str = ""
    created_at: int = 0
    token: str = ""


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "token", _list, __doc__)
    add_list_flags(parser)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    example = "muster token new ci --may read,spawn --pools developer_pool --projects demo"
    new = declare_action(actions, "new", _new, "create a token", example)
    new.add_argument("name", metavar="NAME", help="whose it is: the actor of what it does")
    new.add_argument("--may", required=True, metavar="SCOPES", help="read, spawn, operate, admin:"
                     " some of these, with commas")  # fmt: skip
    new.add_argument("--pools", metavar="NAMES", help="only in these pools (default: all)")
    new.add_argument("--projects", metavar="NAMES", help="only for these projects (default: all)")
    new.add_argument("--expires", metavar="SPAN", help="such as 90d (default: never)")
    declare_action(actions, "list", _list, "list the tokens", "muster token list", add_list_flags)
    example = "muster token rotate ci --overlap 1h"
    rotate = declare_action(actions, "rotate", _rotate, "give a token a new secret", example)
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument("--overlap", metavar="SPAN",
                        help="how long the secret before stays valid (default: 1d)")  # fmt: skip
    rotate.add_argument("--expires", metavar="SPAN",
                        help="of the new one (default: as long as the one before)")  # fmt: skip
    revoke = declare_action(actions, "revoke", _revoke, "revoke a token", "muster token revoke ci")
    revoke.add_argument("name", metavar="NAME")


def _new(args: argparse.Namespace) -> int:
    body: dict[str, Any] = {"name": args.name, "scopes": _names(args.may, "--may")}
    for flag, field in (("--pools", args.pools), ("--projects", args.projects)):
        if field is not None:
            body[flag.removeprefix("--")] = _names(field, flag)
    body |= _spans(args, {"expires": "expires_in_seconds"})
    return _show_secret(GatewayClient(args).call("POST", PATH, body=body), args)


def _rotate(args: argparse.Namespace) -> int:
    fields = {"overlap": "overlap_seconds", "expires": "expires_in_seconds"}
    body, path = _spans(args, fields), f"{PATH}/{quote(args.name, safe='')}/rotate"
    return _show_secret(GatewayClient(args).call("POST", path, body=body), args)


def _revoke(args: argparse.Namespace) -> int:
    answer = GatewayClient(args).call("DELETE", f"{PATH}/{quote(args.name, safe='')}")
    if is_json(args):
        print_document(args, answer.document())
    else:
        print(f"token {args.name} is revoked")
    return 0


def _list(args: argparse.Namespace) -> int:
    return TOKENS.show(args, {})


def _names(text: str, flag: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise BadInput(f"{flag}: expected names with commas between them; leave it out for all")
    return names


def _spans(args: argparse.Namespace, fields: dict[str, str]) -> dict[str, float]:
    given = {name: getattr(args, name) for name in fields if getattr(args, name) is not None}
    return {fields[name]: span(text, f"--{name}") for name, text in given.items()}


def _show_secret(answer: Answer, args: argparse.Namespace) -> int:
    """The secret alone is printed to standard output, for scripts; the rest is a note."""
    if is_json(args):
        print_document(args, answer.document())
        return 0
    token = answer.read(TokenAnswer)
    print(token.token)
    print_note(f"(the secret of token {token.name}, which {_may(token)}; it is not shown again)")
    return 0


def _may(token: TokenAnswer) -> str:
    where = "" if token.pools is None else f" in {', '.join(token.pools)}"
    whose = "" if token.projects is None else f" for {', '.join(token.projects)}"
    ends = token.secrets[0].expires_at if token.secrets else None
    until = "" if ends is None else f", until {render.timestamp(ends)}"
    return f"may {', '.join(token.scopes)}{where}{whose}{until}"


def _limits(names: list[str] | None) -> str:
    return "all" if names is None else ", ".join(names)


def _expiry(token: TokenAnswer, now_ms: float) -> str:
    if not token.secrets:
        return "expired"
    ends = token.secrets[0].expires_at
    return "never" if ends is None else f"in {render.duration((ends - now_ms) / 1000)}"


TOKENS: Listing[TokenAnswer] = Listing(
    path=PATH,
    name="tokens",
    item=TokenAnswer,
    columns=(
        Column("NAME", lambda token, _: token.name),
        Column("MAY", lambda token, _: ", ".join(token.scopes)),
        Column("POOLS", lambda token, _: _limits(token.pools), drop=2),
        Column("PROJECTS", lambda token, _: _limits(token.projects), drop=1),
        Column("EXPIRES", lambda token, now: _expiry(token, now or time.time() * 1000)),
        Column("SECRETS", lambda token, _: str(len(token.secrets)), right=True),
        Column("AGE", lambda token, now: render.age(token.created_at, now), right=True),
    ),
    identity=lambda token: token.name,
    empty="no tokens",
)
