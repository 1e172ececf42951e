"""start agents

Starts agents in a pool and waits a while until they run.

  muster spawn developer_pool --project demo
  muster spawn developer_pool --project demo --count 15
  muster spawn developer_pool --project demo --input '{"task": "tidy up"}' --label team=red
  muster spawn developer_pool --project demo --input @task.json --max-idle-time never
  muster spawn developer_pool --project demo --priority 9 --expected-seconds 86400
  muster spawn developer_pool --project demo --key order-4711 --no-wait --json
  muster spawn developer_pool --project demo --durability replicated
"""

import argparse
from urllib.parse import quote

from eventstore.ids import new_id
from eventstore.language.placement_policy import PRIORITY_MAX
from muster.cli.arguments.command import BadInput, Refused, Subparsers, declare
from muster.cli.arguments.values import json_object, pairs, seconds
from muster.cli.client.api_client import BASE, Answer, GatewayClient, NoReply
from muster.cli.client.shapes import PoolAnswer
from muster.cli.resources.agent_commands import CommandSender, add_command_flags, run_all
from muster.cli.resources.progress_bar import progress_bar

COUNT_MAX = 100_000


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "spawn", run, __doc__)
    option = parser.add_argument
    option("pool", metavar="POOL", help="their pool")
    option("--project", required=True, metavar="ID", help="their project")
    option("--role", metavar="ROLE", help="their role (default: the pool's)")
    option("--count", type=int, default=1, metavar="N", help="how many (default 1)")
    option("--input", metavar="JSON", help="a JSON object, or @FILE, or @- for standard input: the"
           " agent's `context.input`")  # fmt: skip
    option("--label", action="append", default=[], metavar="K=V", help="a label (again for more)")
    option("--heartbeat-interval", metavar="S", help="seconds between checks")
    option("--max-idle-time", metavar="S", help="end them after S idle seconds, or `never`")
    option("--priority", type=int, metavar="N", help="0 to 9: which a placer places first")
    option("--expected-seconds", metavar="S", help="how long they are expected to live")
    option("--pending-timeout", metavar="S", help="withdraw them if not started within S seconds")
    option("--key", metavar="TEXT", help="idempotency key: the same again returns the same agents")
    add_command_flags(parser, no_wait="do not wait until they run")


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.count <= COUNT_MAX:
        raise BadInput(f"--count: {args.count} is not between 1 and {COUNT_MAX}")
    request, keys = _request(args), _keys(args.key, args.count)
    sender = CommandSender(args)
    role = args.role
    if not role:
        role = _role_of(sender.gateway, args.pool)
    of_role = {"role_type": role} if role else {}

    def spawn(key: str) -> Answer:
        try:
            return sender.send("spawn", {**request, **of_role}, {"Idempotency-Key": key})
        except NoReply as error:
            hint = f"to get its result, repeat with --key {key}"
            raise NoReply(f"{error}\n  {hint}") from error

    columns = ("AGENT", "STATUS", "WORKER", "REASON")
    return run_all(args, spawn, keys, columns, progress_bar("spawning", len(keys)))


def _role_of(gateway: GatewayClient, pool: str) -> str | None:
    """The role of a pool, which older gateways require; None if the token may not read it."""
    try:
        answer = gateway.get(f"{BASE}/pools/{quote(pool, safe='')}")
    except Refused as error:
        if error.kind not in ("forbidden", "pool-not-found") or not gateway.has_token:
            raise
        return None
    return answer.read(PoolAnswer).role_type


def _request(args: argparse.Namespace) -> dict[str, object]:
    """The body of a spawn; the gateway chooses values that are not given."""
    request: dict[str, object] = {"project_id": args.project, "pool_name": args.pool}
    if args.priority is not None:
        if not 0 <= args.priority <= PRIORITY_MAX:
            raise BadInput(f"--priority: {args.priority} is not between 0 and {PRIORITY_MAX}")
        request["priority"] = args.priority
    for name in ("heartbeat_interval", "pending_timeout", "expected_seconds", "max_idle_time"):
        if (text := getattr(args, name)) is not None:
            never = name == "max_idle_time" and text == "never"
            request[name] = None if never else seconds(text, f"--{name.replace('_', '-')}")
    if args.input:
        request["input"] = json_object(args.input, "--input")
    if args.label:
        request["labels"] = pairs(args.label, "--label")
    return request


def _keys(key: str | None, count: int) -> list[str]:
    """An `Idempotency-Key` for each spawn, so that one with an unknown outcome can be repeated."""
    if key is None:
        return [new_id() for _ in range(count)]
    if not (key.strip() and key.isascii() and key.isprintable()):
        raise BadInput("--key: expected printable ASCII")
    return [key] if count == 1 else [f"{key}-{number}" for number in range(1, count + 1)]
