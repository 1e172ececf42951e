"""The environment of the roles' processes: the same settings, less what a role does not need.

Agents run below the supervisor, as the same user, and may read its environment: so it has neither
the API's token nor what opens the views and the archive.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from eventstore.names import similar_name
from muster.settings import addresses
from muster.settings.settings import NAMES, Settings

UNSET_VARIABLE: Final = "MUSTER_LEFT_OUT"
"""Names the settings that a child has to run without, whatever else names them."""
_OF_COMMANDS: Final = ("URL", "LOG_DIR", "COMPLETION_SECONDS")
"""Variables that only the commands read."""
INTERNAL: Final = frozenset(
    f"MUSTER_{name}"
    for name in ("LEFT_OUT", "READY_FD", "ROLE_LOG", "OWNER_PID", "OWNER_START", "OWNER", "SCOPE")
)
"""Variables that Muster sets: for its processes, and for the programs that agents start."""
_OF_SERVICE: Final = re.compile(r"\w+_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_\w+)?")
"""What Kubernetes sets for a Service; and `…_PORT`, an address."""
CREDENTIALS: Final[Mapping[str, frozenset[str]]] = {
    "gateway": frozenset({"api_token", "database_url"}),
    "projector": frozenset({"database_url"}),
    "supervisor": frozenset({"agents_database_url", "pgbouncer_url"}),
}
"""What each role needs besides Redis. Agents run below the supervisor, as the same user."""
ALL_CREDENTIALS: Final = frozenset().union(*CREDENTIALS.values())


def to_environment(settings: Settings) -> dict[str, str]:
    """The environment that gives a child process the same settings."""
    environment: dict[str, str] = {}
    unset = []
    for name in NAMES:
        value = getattr(settings, name)
        if value is None or value == "" or value is False:
            unset.append(name)
            continue
        if isinstance(value, Path):
            value = value.absolute()
        environment[f"MUSTER_{name.upper()}"] = "1" if value is True else str(value)
    return {**environment, UNSET_VARIABLE: ",".join(unset)}


def for_role(role: str, settings: Settings) -> Settings:
    """The settings of a role, without the credentials that it does not need."""
    return replace(settings, **dict.fromkeys(ALL_CREDENTIALS - CREDENTIALS[role], ""))


def role_environment(role: str, settings: Settings, outer: Mapping[str, str]) -> dict[str, str]:
    """The environment of a role's process, without the credentials that it does not need.

    What is not Muster's stays as it is, since the agents inherit it, except a `DATABASE_URL` that
    opens the views.
    """
    own = to_environment(for_role(role, settings))
    unset = {f"MUSTER_{name.upper()}" for name in own[UNSET_VARIABLE].split(",")}
    views, theirs = settings.database_url, outer.get("DATABASE_URL", "")
    if "database_url" not in CREDENTIALS[role] and addresses.same_database(theirs, views):
        unset.add("DATABASE_URL")
    return {name: value for name, value in {**outer, **own}.items() if name not in unset}


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Of each `MUSTER_…` that names no setting: that it has no effect, and what was meant."""
    known = [*(name.upper() for name in NAMES), *_OF_COMMANDS]
    found = []
    for variable in sorted(environment.keys() - INTERNAL):
        name = variable.removeprefix("MUSTER_")
        if name in (variable, *known) or _OF_SERVICE.fullmatch(variable):
            continue
        if addresses.service_hint(environment[variable]):
            continue
        similar = similar_name(name, known)
        meant = f"; did you mean `MUSTER_{similar}`?" if similar else ""
        found.append(f"`{variable}` is no setting and has no effect{meant}")
    return found
