"""The roles and pools of the configuration file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from eventstore.errors import ConfigurationError
from eventstore.keys import POOL_NAME
from muster.settings.settings import NAMES, PoolDeclaration
from muster.settings.values import abbreviate

BUILT_IN_AGENT: Final = "workers.builtin:Placeholder"
BUILT_IN_ROLES: Final = ("developer", "tester", "business_analyst", "team_leader")


def declarations(
    document: dict[str, Any], path: Path
) -> tuple[dict[str, str], dict[str, PoolDeclaration]]:
    """What the file declares, else the built-in roles. Raises `ConfigurationError`."""
    unknown = set(document) - set(NAMES) - {"roles", "pools"}
    if unknown:
        raise ConfigurationError(
            f"{path}: unknown key {abbreviate(min(unknown))}; known are roles, pools,"
            f" {', '.join(NAMES)}"
        )
    if "roles" not in document and "pools" not in document:
        roles = dict.fromkeys(BUILT_IN_ROLES, BUILT_IN_AGENT)
        return roles, {f"{role}_pool": PoolDeclaration(role, {}) for role in BUILT_IN_ROLES}
    roles = {name: _role(name, body, path) for name, body in _tables(document, "roles", path)}
    pools = {
        name: _pool(name, body, roles, path) for name, body in _tables(document, "pools", path)
    }
    return roles, pools


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


def _role(name: str, body: dict[str, Any], path: Path) -> str:
    agent = body.get("agent")
    if unknown := set(body) - {"agent"}:
        raise ConfigurationError(
            f"{path}: [roles.{name}]: unknown key {abbreviate(min(unknown))}; known is agent"
        )
    if not isinstance(agent, str) or not all(agent.partition(":")[::2]):
        raise ConfigurationError(
            f"{path}: [roles.{name}] agent: expected 'package.module:Class',"
            f" got {abbreviate(agent)}"
        )
    return agent


def _pool(name: str, body: dict[str, Any], roles: Mapping[str, str], path: Path) -> PoolDeclaration:
    role = body.get("role")
    if not isinstance(role, str) or role not in roles:
        raise ConfigurationError(
            f"{path}: [pools.{name}] role: expected one of {', '.join(roles) or '(no roles)'},"
            f" got {abbreviate(role)}"
        )
    declaration = PoolDeclaration(role, {k: v for k, v in body.items() if k != "role"})
    try:
        declaration.config()
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: [pools.{name}]: {error}") from None
    return declaration
