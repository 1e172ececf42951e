"""What a name on the command line stands for: an agent, a worker, a pool, a project, a role.

Ids may be shortened to any six or more characters at their beginning or end; the gateway looks them
up. A name that nothing bears ends the command (exit code 1), with the name that was probably meant;
one that several bear lists them (exit code 2).
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from msgspec import Struct

from eventstore.names import either, similar_name, unknown_name
from muster.cli.arguments.command import BadInput, Refused
from muster.cli.arguments.values import AGENT_ID
from muster.cli.client.api_client import BASE, LOOKUP, GatewayClient, Query
from muster.settings.settings import abbreviate

TIMEOUT_SECONDS = 5.0
LABELLED_MAX = 1000
"""So many agents are looked at for similar labels."""
_PREFIX = re.compile(r"(agent|worker|pool|project|role)s?/")
ID_KINDS = ("agent", "worker")
SHORT = re.compile(r"[0-9a-f-]{1,5}")
ID_PART = re.compile(r"[0-9a-f-]{6,36}")


class NotLookedUp(Refused):
    """This gateway is of an older version, which cannot look up names."""


class Match(Struct, frozen=True):
    """Something that bears a name."""

    kind: str = ""
    name: str = ""
    pool_name: str = ""
    status: str = ""

    def __str__(self) -> str:
        return "  ".join(filter(None, (self.kind, self.name, self.pool_name, self.status)))


class _Labels(Struct, frozen=True):
    labels: dict[str, str] = {}


class _Labelled(Struct, frozen=True):
    agents: tuple[_Labels, ...] = ()


class Found(Struct, frozen=True):
    """What the gateway answers to a look-up."""

    matches: tuple[Match, ...] = ()
    more: bool = False
    message: str = ""


FILTERS = {"pool_name": "pool", "project_id": "project", "role_type": "role"}
"""Parameters of lists that are names, and what they are names of."""


def require_known(gateway: GatewayClient, query: Query) -> None:
    """Where a list is empty: are its filters names of something? Raises `Refused`."""
    for name, kind in FILTERS.items():
        if text := query.get(name):
            with suppress(NotLookedUp):
                _require_one(str(text), _look_up(gateway, str(text), [kind]))
    if label := str(query.get("label") or ""):
        _refuse_label_typo(gateway, query, label)


def _refuse_label_typo(gateway: GatewayClient, query: Query, label: str) -> None:
    """`label`: name and value with a colon between. Refused if some agents have a similar one.

    An agent with this one may have existed.
    """
    answer = gateway.get(BASE, {**query, "label": None, "limit": LABELLED_MAX})
    labels = [agent.labels for agent in answer.read(_Labelled).agents]
    name, _, value = label.partition(":")
    names = {known for one in labels for known in one}
    if name not in names and similar_name(name, names):
        raise Refused(unknown_name("label", name, names))
    if similar := similar_name(value, {one[name] for one in labels if name in one}):
        raise Refused(unknown_name("label", f"{name}={value}", [f"{name}={similar}"]))


def _look_up(gateway: GatewayClient, text: str, kinds: Sequence[str] = ()) -> Found:
    query = {"name": text, "kind": ",".join(kinds) or None}
    try:
        return gateway.get(LOOKUP, query, timeout_seconds=TIMEOUT_SECONDS).read(Found)
    except Refused as error:
        if error.kind != "not-found":
            raise
        raise NotLookedUp("this gateway is too old to look up a part of an id") from error


def resolve(gateway: GatewayClient, text: str, *kinds: str) -> Match:
    """The one thing of these kinds that has this name or (part of an) id.

    Raises `Refused` if there is none, `BadInput` if there are several.
    """
    kind, name = split_kind(text)
    if not 0 < len(name) <= 128:
        raise Refused(unknown_name(either(kinds), abbreviate(text, str)))
    found = _look_up(gateway, name, [kind] if kind in kinds else kinds)
    if not found.matches and (other := _look_up(gateway, name).matches):
        raise Refused(f"`{text}` is no {either(kinds)}, but: {other[0]}")
    return _require_one(text, found)


def resolve_locally(known: Iterable[Match], text: str, *kinds: str) -> Match:
    """As `resolve`, among what is known here."""
    kind, name = split_kind(text)
    wanted = [kind] if kind in kinds else kinds
    among = {(one.kind, one.name): one for one in known if one.kind in wanted}.values()
    exact = [one for one in among if one.name in (name, name.lower())]
    part = name.lower() if ID_PART.fullmatch(name.lower()) else "-"
    parts = [
        one
        for one in among
        if one.kind in ID_KINDS and (one.name.startswith(part) or one.name.endswith(part))
    ]
    message = unknown_name(
        either(kinds), name, [one.name for one in among if one.kind not in ID_KINDS]
    )
    return _require_one(text, Found(tuple(exact or parts), message=message))


def _require_one(text: str, found: Found) -> Match:
    """Raises `Refused` if there is none, `BadInput` if there are several."""
    if not found.matches:
        short = "; of an id, six or more characters are needed" if SHORT.fullmatch(text) else ""
        raise Refused(f"{found.message}{short}")
    if len(found.matches) > 1:
        candidates = [f"\n  {match}" for match in found.matches]
        more = "\n  … and more" if found.more else ""
        raise BadInput(f"`{text}` may be any of these:{''.join(candidates)}{more}")
    return found.matches[0]


def split_kind(text: str) -> tuple[str, str]:
    """`agent/1a2b3c` as kind and name; the kind is empty where none is given.

    The sign that `muster ps` puts in front of the end of an id is left out.
    """
    prefix = _PREFIX.match(text)
    kind = prefix[1] if prefix else ""
    return kind, (text[prefix.end() :] if prefix else text).strip().lstrip("…").removeprefix("...")


def full_id(gateway: GatewayClient, kind: str, text: str) -> str:
    """The id of an agent or worker, from it or a part of it; a full id is not looked up.

    Raises `BadInput` also if the text can be neither.
    """
    named_kind, name = split_kind(text)
    name = name.lower()
    if named_kind in ("", kind) and AGENT_ID.fullmatch(name):
        return name
    if named_kind not in ("", kind) or not ID_PART.fullmatch(name):
        command = "ps" if kind == "agent" else "workers"
        raise BadInput(
            f"{abbreviate(text)} is no {kind}'s id, nor six or more characters of its beginning or"
            f" end; `muster {command}` lists them"
        )
    return resolve(gateway, name, kind).name
