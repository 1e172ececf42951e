"""Reads all settings once: flag, else environment, else configuration file, else default.

The file also declares roles and pools; without one there are those built in.
"""

import codecs
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from eventstore.errors import ConfigurationError
from eventstore.keys import POOL_NAME
from eventstore.language.pool_config import SPAWN_DEFAULTS, PoolConfig, in_words
from eventstore.names import similar_name, suggestion
from muster.settings import addresses
from muster.settings.checks import check
from muster.settings.environment import UNSET_VARIABLE
from muster.settings.policies import read_policies
from muster.settings.settings import (
    NAMES,
    PoolDeclaration,
    Settings,
    abbreviate,
    parse,
)
from muster.settings.webhooks import read_webhooks

BUILT_IN_AGENT: Final = "workers.builtin:Placeholder"
BUILT_IN_ROLES: Final = ("developer", "tester", "business_analyst", "team_leader")


def load(flags: Mapping[str, object], environment: Mapping[str, str], role: str = "up") -> Settings:
    """Read all settings. Raises `ConfigurationError`, which names what is wrong and what is right.

    `flags`: those that were given; None means not given. `role`: only `up` and gateways listen.
    """
    path = flags.get("config") or environment.get("MUSTER_CONFIG")
    found = Path(str(path)) if path else Path("muster.toml")
    document = _read_file(found, required=bool(path))
    values, sources = _values(flags, environment, document, found)
    if document:
        values["config"], sources["config"] = found, sources.get("config", str(found))
    if file := values.get("config"):
        values.setdefault("app_dir", file.absolute().parent)
    listens = role in ("up", "gateway")
    declared = _declared(document, found)
    if listens:  # the others need none of the secrets
        tables = _tables(document, "webhooks", found)
        declared["webhooks"] = read_webhooks(tables, found)
    settings = Settings(**values, sources=sources, **declared)
    check(settings, listens=listens)
    return settings


def _values(
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    document: Mapping[str, object],
    file: Path,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that are named somewhere, and where. Raises `ConfigurationError`."""
    unset = environment.get(UNSET_VARIABLE, "").split(",")
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in NAMES:
        flag = f"--{name.replace('_', '-')}"
        unused = bool(values.get("embedded")) and name in addresses.OF_MUSTER
        if flags.get(name) is not None:
            value, source = flags[name], flag
            if unused:
                raise ConfigurationError(
                    f"{flag} and {sources['embedded']} contradict each other: leave one out"
                )
        elif unused or name in unset:
            continue
        elif named := addresses.environment_value(name, environment):
            value, source = named
        elif name in document:
            value, source = document[name], f"{name} in {file}"
        else:
            continue
        values[name], sources[name] = parse(name, value, source), source
    if "agents_database_url" not in values and "agents_database_url" not in unset:
        named = _agents_database(values, sources, environment)
        values["agents_database_url"], sources["agents_database_url"] = named
    for name in addresses.OF_MUSTER:
        if url := values.get(name):
            read = addresses.redis_address if name == "redis_url" else addresses.database_address
            values[name] = read(url, sources[name])
    return values, sources


def _agents_database(
    values: Mapping[str, Any], sources: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[str, str]:
    """Address and source of the database that the environment names for agents; or empty.

    `DATABASE_URL` is theirs where it does not open the views.
    """
    if url := values.get("pgbouncer_url"):
        return url, sources["pgbouncer_url"]
    url = environment.get("DATABASE_URL", "")
    if url and not addresses.same_database(url, values.get("database_url", "")):
        return url, "DATABASE_URL"
    return "", ""


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if content.startswith(codecs.BOM_UTF8):
            raise ValueError("it begins with a byte-order mark: save it as UTF-8 without one")
        return tomllib.loads(content.decode("utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        problem = "does not exist"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeError as error:
        problem = f"is not UTF-8: {abbreviate(error, str)}"
    except (ValueError, RecursionError) as error:  # TOML's own errors are ValueErrors too
        problem = f"is not TOML: {abbreviate(error, str)}"
    raise ConfigurationError(f"the configuration file {abbreviate(path, str)} {problem}")


_OF_ROLE: Final = ("agent", "preload")


def _declared(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """The settings that only a file has, else what is built in. Raises `ConfigurationError`."""
    _refuse_unknown(document, ("roles", "pools", "webhooks", *NAMES), f"{path}")
    if "roles" not in document and "pools" not in document:
        pools = {f"{role}_pool": PoolDeclaration(role, {}) for role in BUILT_IN_ROLES}
        return {"roles": dict.fromkeys(BUILT_IN_ROLES, BUILT_IN_AGENT), "pools": pools}
    tables = _tables(document, "roles", path)
    defaults = {name: {k: v for k, v in body.items() if k not in _OF_ROLE} for name, body in tables}
    roles = {name: _role(name, body, defaults[name], path) for name, body in tables}
    pools = {
        name: _pool(name, body, roles, defaults, path)
        for name, body in _tables(document, "pools", path)
    }
    deferred = tuple(name for name, body in tables if not body.get("preload", True))
    declared = {"roles": roles, "role_defaults": defaults, "deferred_roles": deferred}
    return {**declared, "pools": pools}


def _tables(document: dict[str, Any], key: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    tables = document.get(key, {})
    if not isinstance(tables, dict):
        raise ConfigurationError(f"{path}: {key} must be tables, [{key}.name]")
    for name, body in tables.items():
        if not POOL_NAME.fullmatch(name):
            raise ConfigurationError(
                f"{path}: [{key}.{abbreviate(name, str)}]: a name is 1 to 63 of a-z, 0-9, _ and -"
            )
        if not isinstance(body, dict):
            raise ConfigurationError(f"{path}: {key}.{name} must be a table, [{key}.{name}]")
    return list(tables.items())


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    """Raises `ConfigurationError` that names the key that was probably meant."""
    for name in table:
        if name not in known:
            shown = abbreviate(name)
            raise ConfigurationError(f"{place}: unknown key {shown}{suggestion(name, known)}")


def _role(name: str, body: dict[str, Any], settings: dict[str, Any], path: Path) -> str:
    agent = body.get("agent")
    _refuse_unknown(body, (*_OF_ROLE, *SPAWN_DEFAULTS), f"{path}: [roles.{name}]")
    if not isinstance(preload := body.get("preload", True), bool):
        raise ConfigurationError(
            f"{path}: [roles.{name}] preload: expected true or false, got {abbreviate(preload)}"
        )
    if not isinstance(agent, str) or not all(agent.partition(":")[::2]):
        raise ConfigurationError(
            f"{path}: [roles.{name}] agent: expected 'package.module:Class',"
            f" got {abbreviate(agent)}"
        )
    _check_settings(PoolDeclaration(name, settings), f"{path}: [roles.{name}]")
    return agent


def _check_settings(declaration: PoolDeclaration, place: str) -> None:
    try:
        declaration.config()
    except msgspec.ValidationError as error:
        what, _, key = in_words(error).partition(" - at `$.")
        raise ConfigurationError(f"{place}{f' {key[:-1]}' if key else ''}: {what}") from None


def _pool(
    name: str,
    body: dict[str, Any],
    roles: Mapping[str, str],
    role_defaults: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> PoolDeclaration:
    role = body.get("role")
    _refuse_unknown(body, ("role", *PoolConfig.__struct_fields__), f"{path}: [pools.{name}]")
    if isinstance(role, str) and not roles:
        hint = f" (the built-in agent is {BUILT_IN_AGENT!r})" if role in BUILT_IN_ROLES else ""
        raise ConfigurationError(
            f"{path}: [pools.{name}]: the file declares no role {abbreviate(role)}: with a file,"
            f" no role is built in; add [roles.{abbreviate(role, str)}] with"
            f" agent = 'package.module:Class'{hint}"
        )
    if not isinstance(role, str) or role not in roles:
        similar = similar_name(str(role), roles)
        raise ConfigurationError(
            f"{path}: [pools.{name}] role: expected one of {', '.join(roles) or '(no roles)'},"
            f" got {abbreviate(role) if 'role' in body else 'none'}"
            f"{f'; did you mean `{similar}`?' if similar else ''}"
        )
    usual, own = role_defaults[role], {key: value for key, value in body.items() if key != "role"}
    if "shadow" in own:
        try:
            own["shadow"] = read_policies(own["shadow"], path.parent)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: [pools.{name}]: {error}") from None
    both = {**usual, **own}
    if isinstance(labels := own.get("labels"), dict) and isinstance(usual.get("labels"), dict):
        both["labels"] = {**usual["labels"], **labels}
    declaration = PoolDeclaration(role, both)
    _check_settings(declaration, f"{path}: [pools.{name}]")
    return declaration
