"""list, show, create, change or delete pools

Lists pools and how full they are, shows one (`show` may be left out), creates, changes, pauses,
resumes or deletes one.

  muster pools                                  all pools and how full they are
  muster pools developer_pool                   one, with its settings
  muster pools --as-of -15m                     15 minutes ago
  muster pools create night --role developer --set max_workers=4
  muster pools set night max_workers=8 empty_worker_seconds=60
  muster pools set night down='{ window_seconds = 600 }'
  muster pools set night shadow=proactive.toml
  muster pools pause night --reason "the database moves"
  muster pools delete night --force
"""

import argparse
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from eventstore.language.replacement import Replacement, ReplacementStatus
from muster.cli.arguments.command import Subparsers, declare
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import declare_action
from muster.cli.arguments.values import pairs, setting
from muster.cli.client.api_client import BASE, TIMEOUT_SECONDS, Answer, GatewayClient
from muster.cli.client.shapes import PoolAnswer
from muster.cli.resources.as_of import add_as_of_flag, get_as_of
from muster.cli.resources.listing import Column, Listing, add_list_flags
from muster.settings.policies import read_policies
from muster.terminal import render

DELETE_SECONDS = 90.0


class _NameOrAction(argparse._SubParsersAction):  # type: ignore[type-arg]  # not one at run time
    """A word that is not an action is the name of a pool: `pools NAME` is `pools show NAME`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        words = values if values[0] in self._name_parser_map else ["show", *values]
        super().__call__(parser, namespace, words, option_string)


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "pools", _list, __doc__)
    add_list_flags(parser)
    actions = parser.add_subparsers(action=_NameOrAction, metavar="NAME | ACTION", title="actions")
    example = "muster pools show developer_pool"
    show = declare_action(actions, "show", _show, "show one pool", example)
    show.add_argument("name", metavar="NAME")
    add_as_of_flag(show, argparse.SUPPRESS)
    example = "muster pools create night --role developer --set max_workers=4"
    create = declare_action(actions, "create", _create, "create a pool", example)
    create.add_argument("name", metavar="NAME", help="a to z, 0 to 9, _ and -")
    create.add_argument("--role", required=True, metavar="ROLE", help="the role of its agents")
    create.add_argument("--set", action="append", default=[], metavar="K=V", dest="settings",
                        help="a setting (again for more)")  # fmt: skip
    example = "muster pools set night max_workers=8"
    change = declare_action(actions, "set", _set, "change settings of a pool", example)
    change.add_argument("name", metavar="NAME")
    change.add_argument("settings", nargs="+", metavar="K=V", help="a setting and its value")
    example = 'muster pools pause night --reason "the database moves"'
    pause = declare_action(actions, "pause", _pause, "neither add nor remove workers", example)
    pause.add_argument("name", metavar="NAME")
    pause.add_argument("--reason", required=True, metavar="TEXT", help="why, for others to read")
    example = "muster pools resume night"
    resume = declare_action(actions, "resume", _resume, "add and remove workers again", example)
    resume.add_argument("name", metavar="NAME")
    example = "muster pools delete night --force"
    delete = declare_action(actions, "delete", _delete, "delete a pool", example)
    delete.add_argument("name", metavar="NAME")
    delete.add_argument("--force", action="store_true", help="end its agents")
    actions.choices = None  # type: ignore[assignment]  # any first word may be a name


def _settings(texts: Sequence[str], flag: str) -> dict[str, object]:
    found = {name: setting(value) for name, value in pairs(texts, flag).items()}
    if "shadow" in found:
        found["shadow"] = read_policies(found["shadow"])
    return found


def _list(args: argparse.Namespace) -> int:
    return POOLS.show(args, {})


def _show(args: argparse.Namespace) -> int:
    return _print_answer(get_as_of(GatewayClient(args), _path(args), args)[0], args)


def _create(args: argparse.Namespace) -> int:
    config = _settings(args.settings, "--set")
    body = {"pool_name": args.name, "role_type": args.role, "config": config}
    return _print_answer(GatewayClient(args).call("POST", POOLS.path, body=body), args)


def _set(args: argparse.Namespace) -> int:
    body = {"config": _settings(args.settings, "K=V")}
    return _print_answer(GatewayClient(args).call("PATCH", _path(args), body=body), args)


def _pause(args: argparse.Namespace) -> int:
    body = {"reason": args.reason}
    return _print_answer(GatewayClient(args).call("POST", f"{_path(args)}/pause", body=body), args)


def _resume(args: argparse.Namespace) -> int:
    return _print_answer(GatewayClient(args).call("POST", f"{_path(args)}/resume"), args)


def _delete(args: argparse.Namespace) -> int:
    query, seconds = {"force": "true" if args.force else None}, TIMEOUT_SECONDS + DELETE_SECONDS
    gateway = GatewayClient(args)
    answer = gateway.call("DELETE", _path(args), query=query, timeout_seconds=seconds)
    if is_json(args):
        print_document(args, answer.document() if answer.body else {})
    elif answer.status == 202:
        print(f"pool {args.name}: its agents are ending; it is deleted with the last of them")
    else:
        print(f"pool {args.name} is deleted")
    return 0


def _path(args: argparse.Namespace) -> str:
    return f"{POOLS.path}/{quote(args.name, safe='')}"


def _print_answer(answer: Answer, args: argparse.Namespace) -> int:
    if is_json(args):
        print_document(args, answer.document())
    else:
        print_pool(answer)
    return 0


def print_pool(answer: Answer) -> None:
    """Its capacity and its settings."""
    render.show(POOLS.table([msgspec.Raw(answer.body)]))
    pool = answer.read(PoolAnswer)
    if pool.replacement:
        print(f"\n{replacement_text(pool.pool_name, pool.replacement)}")
    columns = (render.Column("SETTING"), render.Column("VALUE", right=True))
    rows = [(name, _value(value)) for name, value in pool.config.items()]
    if rows:
        print()
        render.show(render.Table(columns, rows))


def replacement_text(pool: str, replacement: Replacement) -> str:
    """A sentence about the replacement of its workers."""
    when = render.timestamp(replacement.ended_at or replacement.started_at)
    if replacement.runs:
        return f"the workers of pool {pool} are being replaced since {when}: {replacement.reason}"
    if replacement.status is ReplacementStatus.FINISHED:
        return f"the workers of pool {pool} were replaced at {when}: {replacement.reason}"
    stopped = f"the replacement of the workers of pool {pool} stopped at {when}"
    return f"{stopped}: {replacement.detail}"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={inner}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(map(_value, value))
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _utilization(pool: PoolAnswer) -> render.Cell:
    share = f"{pool.utilization:.0%}"
    if render.at_terminal():
        share = f"{render.bar(pool.used_capacity, pool.total_capacity)} {share:>4}"
    return render.Cell(share, "yellow" if pool.utilization >= 0.9 else "green")


POOLS: Listing[PoolAnswer] = Listing(
    path=f"{BASE}/pools",
    name="pools",
    item=PoolAnswer,
    columns=(
        Column("POOL", lambda pool, _: pool.pool_name),
        Column("ROLE", lambda pool, _: pool.role_type, drop=2),
        Column("STATUS", lambda pool, _: render.status(pool.status), drop=1),
        Column("AGENTS", lambda pool, _: str(pool.agent_count), right=True),
        Column("PENDING", lambda pool, _: str(pool.pending_count), right=True),
        Column("WORKERS", lambda pool, _: str(pool.process_count), right=True),
        Column("USED", lambda pool, _: f"{pool.used_capacity}/{pool.total_capacity}", right=True),
        Column(
            "UTILIZATION", lambda pool, _: _utilization(pool), key=lambda pool: pool.utilization
        ),
    ),
    identity=lambda pool: pool.pool_name,
    empty="no pools",
)
