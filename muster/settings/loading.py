"""Reads all settings once: flag, else environment, else configuration file, else default."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from eventstore.errors import ConfigurationError
from eventstore.language.durability import Level
from muster.settings.addresses import (
    ADDRESSES,
    environment_address,
    is_host_name,
    redis_address,
    validate_address,
)
from muster.settings.declarations import declarations
from muster.settings.settings import LOOPBACK, NAMES, Settings
from muster.settings.values import abbreviate, parse

UNSET_VARIABLE: Final = "MUSTER_LEFT_OUT"
"""Names the settings that a child has to run without, whatever else names them."""


def load(flags: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """Read all settings. Raises `ConfigurationError`, which names what is wrong and what is right.

    `flags`: those that were given; None means not given.
    """
    path = flags.get("config") or environment.get("MUSTER_CONFIG")
    found = Path(str(path)) if path else Path("muster.toml")
    document = _read_file(found, required=bool(path))
    unset = environment.get(UNSET_VARIABLE, "").split(",")
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in NAMES:
        variable = f"MUSTER_{name.upper()}"
        if flags.get(name) is not None:
            value, source = flags[name], f"--{name.replace('_', '-')}"
        elif name in unset:
            continue
        elif environment.get(variable):
            value, source = environment[variable], variable
        elif not values.get("embedded") and (named := environment_address(name, environment)):
            value, source = named
        elif name in document:
            value, source = document[name], f"{name} in {found}"
        else:
            continue
        values[name], sources[name] = parse(name, value, source), source
    if document:
        values["config"], sources["config"] = found, sources.get("config", str(found))
    if values.get("embedded"):
        _ignore_addresses(values, sources)
    roles, pools = declarations(document, found)
    if url := values.get("redis_url"):
        values["redis_url"] = redis_address(url, sources["redis_url"])
    settings = Settings(**values, roles=roles, pools=pools, sources=sources)
    if settings.app_dir is None and settings.config is not None:
        settings = msgspec.structs.replace(settings, app_dir=settings.config.absolute().parent)
    _check(settings)
    return settings


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    name = abbreviate(path, str)
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        if required:
            raise ConfigurationError(f"the configuration file {name} does not exist") from None
        return {}
    except OSError as error:
        raise ConfigurationError(
            f"the configuration file {name} cannot be read: {error.strerror}"
        ) from None
    except UnicodeError as error:
        why = abbreviate(error, str)
        raise ConfigurationError(f"the configuration file {name} is not UTF-8: {why}") from None
    except (ValueError, RecursionError) as error:  # TOML's own errors are ValueErrors too
        raise ConfigurationError(
            f"the configuration file {name} is not TOML: {abbreviate(error, str)}"
        ) from None


def _ignore_addresses(values: dict[str, Any], sources: dict[str, str]) -> None:
    """Drop what an embedded server does not use. A flag that names another server is refused."""
    for name in ADDRESSES:
        values.pop(name, None)
        source = sources.pop(name, "")
        if source.startswith("--"):
            raise ConfigurationError(
                f"{source} and {sources['embedded']} contradict each other: leave one out"
            )


def _check(settings: Settings) -> None:
    if not is_host_name(settings.host):
        raise ConfigurationError(
            f"{settings.sources.get('host', 'host')}: {abbreviate(settings.host)} is not an address"
            " to listen on, such as 127.0.0.1, or 0.0.0.0 for all"
        )
    if settings.host not in LOOPBACK and not settings.api_token:
        raise ConfigurationError(
            f"host {abbreviate(settings.host, str)} can be reached from outside this machine: set"
            " MUSTER_API_TOKEN (clients then send it as a bearer token), or use 127.0.0.1"
        )
    for name in ("database_url", "pgbouncer_url"):
        validate_address(getattr(settings, name), settings.sources.get(name, name))
    if not settings.redis_url:
        _check_embedded(settings)
    if "{" in settings.key_prefix or "}" in settings.key_prefix:
        raise ConfigurationError("key_prefix: braces are not allowed, they mark the Cluster slot")


def _check_embedded(settings: Settings) -> None:
    """Raises `ConfigurationError` for what the embedded server cannot give."""
    if settings.durability == Level.REPLICATED:
        raise ConfigurationError(
            "durability: the embedded server has no replicas; name a Redis that has, or choose"
            " accepted, fsynced or archived"
        )
    if settings.durability == Level.FSYNCED and settings.appendfsync != "always":
        raise ConfigurationError(
            f"durability: fsynced needs appendfsync always, not {settings.appendfsync}"
        )


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
