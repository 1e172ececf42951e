"""All settings, read once: flag, else environment, else configuration file, else default.

Every flag of `muster up` and the roles has a `MUSTER_<FLAG>` and a key at the top of the file.
Roles and pools come from the file alone. Nothing below this package reads the environment.
"""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from eventstore.errors import ConfigurationError
from eventstore.keys import POOL_NAME
from eventstore.language.durability import Level
from eventstore.language.pool_config import PoolConfig
from eventstore.retention import Retention
from muster.settings.addresses import (
    ADDRESSES,
    environment_address,
    is_host_name,
    redis_address,
    sqlite_address,
    validate_address,
)

SHOWN_MAX: Final = 100
BUILT_IN_AGENT: Final = "workers.builtin:Placeholder"
BUILT_IN_ROLES: Final = ("developer", "tester", "business_analyst", "team_leader")
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
UNSET_VARIABLE: Final = "MUSTER_LEFT_OUT"
"""By this variable a child is told what its parent runs without, whatever else names it."""


class PoolDeclaration(Struct, frozen=True):
    """A pool as the configuration file declares it: only the settings that it names."""

    role: str
    settings: dict[str, Any]

    def config(self, base: PoolConfig | None = None) -> PoolConfig:
        """The declared settings over `base`, or over the defaults."""
        fields = {**msgspec.to_builtins(base or PoolConfig()), **self.settings}
        return msgspec.convert(fields, PoolConfig)


class Settings(Struct, frozen=True, kw_only=True):
    """What one process runs with. Where a value came from stands in `sources`, for people."""

    host: str = "127.0.0.1"
    port: int = 8000
    data_dir: Path = Path(".muster")
    config: Path | None = None
    app_dir: Path | None = None
    embedded: bool = False
    single_process: bool = False
    auto_recover: bool = False
    redis_url: str = ""
    database_url: str = ""
    pgbouncer_url: str = ""
    key_prefix: str = ""
    api_token: str = ""
    allowed_hosts: str = ""
    host_id: str = ""
    appendfsync: str = "everysec"
    fallback: str = "none"
    durability: str = "accepted"
    durability_timeout_seconds: float = 2.0
    durability_replicas: int = 1
    log_level: str = "info"
    shutdown_seconds: float = 25.0
    poll_seconds: float = 1.0
    min_heartbeat_interval: float = 10.0
    min_idle_time: float = 60.0
    retention_age_seconds: float = 86_400.0
    retention_events: int = 100_000
    retention_ended_seconds: float = 600.0
    retention_heartbeats_seconds: float = 600.0
    retention_keys_seconds: float = 86_400.0
    retention_logs_days: float = 14.0
    retention_logs_megabytes: float = 1_000.0
    roles: dict[str, str] = {}
    pools: dict[str, PoolDeclaration] = {}
    sources: dict[str, str] = {}
    fallback_views_url: str = ""
    """Where a fallback has its views; empty otherwise."""

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def handover_failures_file(self) -> Path:
        """What change-overs from a fallback could not hand over."""
        return self.data_dir.absolute() / "fallback-leftovers.json"

    @property
    def engine_url(self) -> str:
        """For an agent's `context.engine()`."""
        return self.pgbouncer_url or self.database_url

    @property
    def retention(self) -> Retention:
        """What Redis keeps, as the log and its readers are told."""
        return Retention(
            age_ms=int(self.retention_age_seconds * 1000),
            events=self.retention_events,
            ended_ms=int(self.retention_ended_seconds * 1000),
            heartbeats_ms=int(self.retention_heartbeats_seconds * 1000),
            keys_ms=int(self.retention_keys_seconds * 1000),
        )

    @property
    def views_url(self) -> str:
        """The views' database: PostgreSQL where one is given, else a file in the data folder."""
        if self.fallback_views_url:
            return self.fallback_views_url
        return self.database_url or sqlite_address(self.views_file)

    @property
    def views_file(self) -> Path:
        """Where the views stand if nothing else is said."""
        return self.data_dir / "views.db"

    @property
    def views_missing(self) -> bool:
        """Whether the views are a file of ours that is not there: nothing was archived then."""
        return not (self.fallback_views_url or self.database_url or self.views_file.exists())


_TEXT: Final = {
    "host", "redis_url", "database_url", "pgbouncer_url", "key_prefix", "api_token",
    "allowed_hosts", "host_id", "appendfsync", "durability", "fallback", "log_level",
}  # fmt: skip
_PATHS: Final = {"data_dir", "config", "app_dir"}
_SWITCHES: Final = {"auto_recover", "embedded", "single_process"}
_NUMBERS: Final = {
    "port": (int, 0, 65535),
    "shutdown_seconds": (float, 0.1, 3600),
    "poll_seconds": (float, 0.01, 60),
    "durability_timeout_seconds": (float, 0.05, 60),
    "durability_replicas": (int, 1, 10),
    "min_heartbeat_interval": (float, 0.05, 3600),
    "min_idle_time": (float, 0.05, 86400),
    "retention_age_seconds": (float, 1, 315_360_000),
    "retention_events": (int, 1, 1_000_000_000),
    "retention_ended_seconds": (float, 1, 86_400),
    "retention_heartbeats_seconds": (float, 1, 86_400),
    "retention_keys_seconds": (float, 60, 31_536_000),
    "retention_logs_days": (float, 0.01, 3_650),
    "retention_logs_megabytes": (float, 1, 1_000_000),
}
_NAMES: Final = ("embedded", *sorted((_TEXT | _PATHS | _SWITCHES | set(_NUMBERS)) - {"embedded"}))
"""The first says whether addresses are looked at."""
_CHOICES: Final = {
    "appendfsync": ("everysec", "always"),
    "fallback": ("none", "single-process"),
    "durability": tuple(level.value for level in Level),
    "log_level": ("debug", "info", "warning", "error"),
}


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
    for name in _NAMES:
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
        values[name], sources[name] = _parse(name, value, source), source
    if document:
        values["config"], sources["config"] = found, sources.get("config", str(found))
    if values.get("embedded"):
        _ignore_addresses(values, sources)
    roles, pools = _declarations(document, found)
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


def _parse(name: str, value: object, source: str) -> Any:
    if name in _SWITCHES:
        if isinstance(value, bool):
            return value
        text = abbreviate(value, str).lower()
        if text in {"1", "true", "yes", "on"}:
            return True
        if text in {"0", "false", "no", "off", ""}:
            return False
        raise ConfigurationError(f"{source}: expected true or false, got {abbreviate(value)}")
    if name in _NUMBERS:
        kind, least, most = _NUMBERS[name]
        try:
            number = kind(str(value))
        except ValueError:
            raise ConfigurationError(
                f"{source}: expected a number, got {abbreviate(value)}"
            ) from None
        if not least <= number <= most:
            raise ConfigurationError(
                f"{source}: expected {least} to {most}, got {abbreviate(value, str)}"
            )
        return number
    if not isinstance(value, str | Path):
        raise ConfigurationError(f"{source}: expected text, got {abbreviate(value)}")
    if "\0" in str(value) or not _encodable(str(value)):
        raise ConfigurationError(
            f"{source}: expected UTF-8 without U+0000, got {abbreviate(value)}"
        )
    if name in _PATHS:
        return Path(value)
    if name == "fallback" and value == "":
        return "none"
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ConfigurationError(
            f"{source}: expected one of {', '.join(_CHOICES[name])}, got {abbreviate(value)}"
        )
    return str(value)


def abbreviate(value: object, form: Callable[[object], str] = repr) -> str:
    """A value in a message: short, whatever it is."""
    try:
        text = form(value)
    except ValueError:  # an integer of too many digits
        return "a number past all bounds"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ignore_addresses(values: dict[str, Any], sources: dict[str, str]) -> None:
    """What an embedded server does not look at. A flag that names others is refused."""
    for name in ADDRESSES:
        values.pop(name, None)
        source = sources.pop(name, "")
        if source.startswith("--"):
            raise ConfigurationError(
                f"{source} and {sources['embedded']} contradict each other: leave one out"
            )


def _declarations(
    document: dict[str, Any], path: Path
) -> tuple[dict[str, str], dict[str, PoolDeclaration]]:
    unknown = set(document) - set(_NAMES) - {"roles", "pools"}
    if unknown:
        raise ConfigurationError(
            f"{path}: unknown key {abbreviate(min(unknown))}; known are roles, pools,"
            f" {', '.join(_NAMES)}"
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
    """What the embedded server cannot give."""
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
    for name in _NAMES:
        value = getattr(settings, name)
        if value is None or value == "" or value is False:
            unset.append(name)
            continue
        if isinstance(value, Path):
            value = value.absolute()
        environment[f"MUSTER_{name.upper()}"] = "1" if value is True else str(value)
    return {**environment, UNSET_VARIABLE: ",".join(unset)}
