"""`muster pools`: how full pools are; create, change and delete them."""

import argparse
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from muster.cli.arguments import targets
from muster.cli.arguments.command import BadInput, Subparsers, declare, print_note
from muster.cli.arguments.values import pairs, setting
from muster.cli.client.api_client import BASE, TIMEOUT_SECONDS, Answer, GatewayClient
from muster.cli.client.as_of import add_as_of_flag, as_of, as_of_ms
from muster.cli.client.shapes import PoolAnswer, PoolList
from muster.terminal import render

EXAMPLES = """\
  muster pools                                  all pools and how full they are
  muster pools developer_pool                   one, with its settings
  muster pools --as-of -15m                     as it was a quarter of an hour ago
  muster pools create night --role developer --set max_workers=4
  muster pools set night max_workers=8 empty_worker_seconds=60
  muster pools delete night --force
"""
DELETE_SECONDS = 90.0


class _NameOrAction(argparse._SubParsersAction):  # type: ignore[type-arg]  # not one at run time
    """A word that is no action is a pool's name: `pools NAME` means `pools show NAME`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        words = values if values[0] in self._name_parser_map else ["show", *values]
        super().__call__(parser, namespace, words, option_string)


def add(subparsers: Subparsers) -> None:
    parser = declare(
        subparsers,
        "pools",
        _list,
        summary="list, show, create, change or delete pools",
        description="Lists pools and how full they are, shows one (`show` may be left out),"
        " creates, changes or deletes one.",
        examples=EXAMPLES,
    )
    targets.add_service_flags(parser)
    add_as_of_flag(parser)
    actions = parser.add_subparsers(action=_NameOrAction, metavar="NAME | ACTION", title="actions")
    show = _action(actions, "show", _show, "show one pool", "  muster pools developer_pool")
    show.add_argument("name", metavar="NAME")
    add_as_of_flag(show, argparse.SUPPRESS)
    create = _action(actions, "create", _create, "create a pool", "  muster pools create night"
                     " --role developer --set max_workers=4")  # fmt: skip
    create.add_argument("name", metavar="NAME", help="a to z, 0 to 9, _ and -")
    create.add_argument("--role", required=True, metavar="ROLE", help="the role of its agents")
    create.add_argument("--set", action="append", default=[], metavar="K=V", dest="settings",
                        help="a setting (again for more)")  # fmt: skip
    change = _action(actions, "set", _set, "change settings of a pool", "  muster pools set night"
                     " max_workers=8")  # fmt: skip
    change.add_argument("name", metavar="NAME")
    change.add_argument("settings", nargs="+", metavar="K=V", help="a setting and its value")
    delete = _action(actions, "delete", _delete, "delete a pool", "  muster pools delete night"
                     " --force")  # fmt: skip
    delete.add_argument("name", metavar="NAME")
    delete.add_argument("--force", action="store_true", help="end the agents that it has")
    actions.choices = None  # type: ignore[assignment]  # any first word may be a name


def _action(
    actions: Subparsers, name: str, run: Any, summary: str, examples: str
) -> argparse.ArgumentParser:
    described = f"{summary.capitalize()}."
    parser = declare(
        actions, name, run, summary=summary, description=described, examples=f"{examples}\n"
    )
    # What was said before the action stands unless it is said again after it.
    targets.add_service_flags(parser, argparse.SUPPRESS)
    return parser


def _path(name: str) -> str:
    return f"{BASE}/pools/{quote(name, safe='')}"


def _settings(texts: Sequence[str], flag: str) -> dict[str, object]:
    return {name: setting(value) for name, value in pairs(texts, flag).items()}


def _list(args: argparse.Namespace) -> int:
    answer = GatewayClient(targets.service(args)).get(f"{BASE}/pools", {"as_of": as_of(args)})
    as_of_ms(answer)
    found = answer.read(PoolList).pools
    if args.json:
        render.print_json(found)
    elif found:
        render.show(table([msgspec.json.decode(raw, type=PoolAnswer) for raw in found]))
    else:
        print_note("no pools")
    return 0


def _show(args: argparse.Namespace) -> int:
    answer = GatewayClient(targets.service(args)).get(_path(args.name), {"as_of": as_of(args)})
    as_of_ms(answer)
    return _print_pool(answer, args)


def _create(args: argparse.Namespace) -> int:
    body = {
        "pool_name": args.name,
        "role_type": args.role,
        "config": _settings(args.settings, "--set"),
    }
    answer = GatewayClient(targets.service(args)).call("POST", f"{BASE}/pools", body=body)
    return _print_pool(answer, args)


def _set(args: argparse.Namespace) -> int:
    body = {"config": _settings(args.settings, "K=V")}
    if not body["config"]:
        raise BadInput("nothing to set")
    return _print_pool(
        GatewayClient(targets.service(args)).call("PATCH", _path(args.name), body=body), args
    )


def _delete(args: argparse.Namespace) -> int:
    answer = GatewayClient(targets.service(args)).call(
        "DELETE",
        _path(args.name),
        query={"force": "true" if args.force else None},
        timeout_seconds=TIMEOUT_SECONDS + DELETE_SECONDS,
    )
    if args.json:
        render.print_json(answer.document() if answer.body else {})
    elif answer.status == 202:
        print(f"pool {args.name}: its agents are ending; it is deleted with the last of them")
    else:
        print(f"pool {args.name} is deleted")
    return 0


def _print_pool(answer: Answer, args: argparse.Namespace) -> int:
    if args.json:
        render.print_json(answer.document())
        return 0
    pool = answer.read(PoolAnswer)
    render.show(table([pool]))
    columns = (render.Column("SETTING"), render.Column("VALUE", right=True))
    rows = [(name, _value(value)) for name, value in pool.config.items()]
    if rows:
        print()
        render.show(render.Table(columns, rows))
    return 0


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(found: Sequence[PoolAnswer]) -> render.Table:
    columns = (
        render.Column("POOL"),
        render.Column("ROLE", drop=2),
        render.Column("STATUS", drop=1),
        render.Column("AGENTS", right=True),
        render.Column("PENDING", right=True),
        render.Column("WORKERS", right=True),
        render.Column("USED", right=True),
        render.Column("UTILIZATION"),
    )
    return render.Table(columns, [_row(pool) for pool in found])


def _row(pool: PoolAnswer) -> render.Row:
    share = f"{pool.utilization:.0%}"
    if render.at_terminal():
        share = f"{render.bar(pool.used_capacity, pool.total_capacity)} {share:>4}"
    return (
        pool.pool_name,
        pool.role_type,
        render.status(pool.status),
        str(pool.agent_count),
        str(pool.pending_count),
        str(pool.process_count),
        f"{pool.used_capacity}/{pool.total_capacity}",
        render.Cell(share, "yellow" if pool.utilization >= 0.9 else "green"),
    )
