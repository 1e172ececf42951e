"""All settings of a process, with their defaults and ranges, and how the text of one is read.

Every flag of `muster up` and the roles has a `MUSTER_<FLAG>` and a key at the top of the file.
Roles and pools come from the file only. Nothing below this package reads the environment.
`loading` reads them all.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta, Struct

from eventstore.errors import ConfigurationError
from eventstore.language.durability import Level
from eventstore.language.pool_config import PoolConfig, override
from eventstore.retention import Retention
from muster.settings.addresses import redacted, service_hint, sqlite_address

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class PoolDeclaration(Struct, frozen=True):
    """A pool as the configuration file declares it: only the settings that it names."""

    role: str
    settings: dict[str, Any]

    def config(self, base: PoolConfig | None = None) -> PoolConfig:
        """The declared settings over `base`, or over the defaults."""
        fields = override(msgspec.to_builtins(base or PoolConfig()), self.settings)
        return msgspec.convert(fields, PoolConfig)


class WebhookDeclaration(Struct, frozen=True, kw_only=True):
    """Where alerts are sent, as the configuration file says; the secrets are decoded."""

    url: str
    secrets: tuple[bytes, ...]
    severity: str = "warning"
    pools: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without secrets, which the address may have, too."""
        return "WebhookDeclaration()"


class NamedSettings(Struct, frozen=True, kw_only=True):
    """The settings that a flag, a variable and a key name."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=0, le=65534)] = 0
    data_dir: Path = Path(".muster")
    config: Path | None = None
    app_dir: Path | None = None
    embedded: bool = False
    single_process: bool = False
    reload: bool = False
    auto_recover: bool = False
    redis_url: str = ""
    database_url: str = ""
    agents_database_url: str = ""
    """Of the agents' own database, wherever it was named; empty: `agents.db`."""
    pgbouncer_url: str = ""
    key_prefix: str = ""
    api_token: str = ""
    allowed_hosts: str = ""
    webhook_private_addresses: bool = False
    access_log: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    otel: bool = False
    host_id: str = ""
    appendfsync: str = "everysec"
    fallback: str = "none"
    durability: str = "accepted"
    durability_timeout_seconds: Annotated[float, Meta(ge=0.05, le=60)] = 2.0
    durability_replicas: Annotated[int, Meta(ge=1, le=10)] = 1
    log_level: str = "info"
    import_timeout_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 60.0
    host_workers_max: Annotated[int, Meta(ge=0, le=100_000)] = 0
    host_launches_max: Annotated[int, Meta(ge=0, le=10_000)] = 0
    host_memory_min_mb: Annotated[float, Meta(ge=0, le=10_000_000)] = 128.0
    host_load_max: Annotated[float, Meta(ge=0, le=10_000)] = 32.0
    shutdown_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 25.0
    poll_seconds: Annotated[float, Meta(ge=0.01, le=60)] = 2.0
    min_heartbeat_interval: Annotated[float, Meta(ge=0.05, le=3600)] = 10.0
    min_idle_time: Annotated[float, Meta(ge=0.05, le=86400)] = 60.0
    retention_age_seconds: Annotated[float, Meta(ge=1, le=315_360_000)] = 86_400.0
    retention_events: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 100_000
    retention_ended_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 600.0
    retention_heartbeats_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 600.0
    retention_keys_seconds: Annotated[float, Meta(ge=60, le=31_536_000)] = 86_400.0
    retention_alerts_days: Annotated[float, Meta(ge=0.01, le=36_500)] = 90.0
    retention_views_days: Annotated[float, Meta(ge=0, le=36_500)] = 0.0
    retention_archive_days: Annotated[float, Meta(ge=0, le=36_500)] = 0.0
    archive_dir: Path | None = None
    retention_logs_days: Annotated[float, Meta(ge=0.01, le=3_650)] = 14.0
    retention_logs_megabytes: Annotated[float, Meta(ge=1, le=1_000_000)] = 1_000.0


class Settings(NamedSettings, frozen=True, kw_only=True):
    """What one process runs with. `sources` says where each value came from, for people."""

    roles: dict[str, str] = {}
    role_defaults: dict[str, dict[str, Any]] = {}
    """Of their pools: what `[roles.NAME]` says besides the class."""
    deferred_roles: tuple[str, ...] = ()
    """Those with `preload = false`."""
    pools: dict[str, PoolDeclaration] = {}
    webhooks: dict[str, WebhookDeclaration] = {}
    sources: dict[str, str] = {}
    fallback_views_url: str = ""
    """Where a fallback stores its views; empty otherwise."""

    def source(self, name: str) -> str:
        """Where a value came from, else the name of its key."""
        return self.sources.get(name, name)

    @property
    def redis_named(self) -> str:
        """The address of Redis and where it came from, for people."""
        source = self.sources.get("redis_url")
        return f"{redacted(self.redis_url)}{f' ({source})' if source else ''}"

    @property
    def metrics_url(self) -> str:
        """Where this role's metrics are, if it has a port for them."""
        host = self.metrics_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.metrics_port}/metrics"

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "logs"

    @property
    def handover_failures_file(self) -> Path:
        """What handovers from a fallback could not hand over."""
        return self.data_dir.absolute() / "fallback-leftovers.json"

    @property
    def engine_url(self) -> str:
        """For an agent's `context.engine()`."""
        return self.agents_database_url or sqlite_address(self.data_dir / "agents.db")

    @property
    def retention(self) -> Retention:
        """What Redis retains, as the log and its readers use it."""
        return Retention(
            age_ms=int(self.retention_age_seconds * 1000),
            events=self.retention_events,
            ended_ms=int(self.retention_ended_seconds * 1000),
            heartbeats_ms=int(self.retention_heartbeats_seconds * 1000),
            keys_ms=int(self.retention_keys_seconds * 1000),
            alerts_ms=int(self.retention_alerts_days * 86_400_000),
            views_ms=int(self.retention_views_days * 86_400_000),
            archive_ms=int(self.retention_archive_days * 86_400_000),
        )

    @property
    def views_url(self) -> str:
        """The views' database: PostgreSQL where one is given, else a file in the data folder."""
        named = self.fallback_views_url or self.database_url
        return named or sqlite_address(self.views_file)

    @property
    def views_file(self) -> Path:
        """Where the views are stored if no database is named."""
        return self.data_dir / "views.db"

    @property
    def views_missing(self) -> bool:
        """Whether the views are a file of ours that does not exist: nothing was archived then."""
        return not (self.fallback_views_url or self.database_url or self.views_file.exists())


NAMES: Final = (
    "embedded",  # the first: it says whether addresses are read
    *sorted({*NamedSettings.__struct_fields__} - {"embedded"}),
)
_TYPES: Final[dict[str, Any]] = {
    field.name: field.type for field in msgspec.structs.fields(NamedSettings)
}
_CHOICES: Final = {
    "appendfsync": ("everysec", "always"),
    "fallback": ("none", "single-process"),
    "durability": tuple(level.value for level in Level),
    "log_level": ("debug", "info", "warning", "error"),
}
_SWITCH: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}
_UNUSABLE: Final = re.compile(r"[\0\ud800-\udfff]")
"""Surrogates, which stand for bytes that are not UTF-8, are no text either."""
SHOWN_MAX: Final = 100


def parse(name: str, value: object, source: str) -> Any:
    """The value of a setting. Raises `ConfigurationError`; `source` is where it was named."""
    kind, text = _TYPES[name], abbreviate(value)
    if kind is bool:
        switch = _SWITCH.get(abbreviate(value, str).lower())
        if switch is None:
            raise ConfigurationError(f"{source}: expected true or false, got {text}")
        return switch
    if hasattr(kind, "__metadata__"):
        return _number(kind.__origin__, kind.__metadata__[0], value, source)
    if not isinstance(value, str | Path):
        raise ConfigurationError(f"{source}: expected text, got {text}")
    if _UNUSABLE.search(str(value)):
        raise ConfigurationError(
            f"{source}: expected UTF-8 without U+0000, got {text}{locale_advice()}"
        )
    if Path in (kind, *get_args(kind)):
        if not str(value).strip():
            raise ConfigurationError(f"{source}: expected a path, got an empty text")
        return Path(value)
    if name == "fallback" and value == "":
        return "none"
    if value not in _CHOICES.get(name, (value,)):
        raise ConfigurationError(
            f"{source}: expected one of {', '.join(_CHOICES[name])}, got {text}"
        )
    return str(value)


def _number(
    kind: Callable[[str], float], bounds: msgspec.Meta, value: object, source: str
) -> float:
    try:
        number = kind(str(value))
    except ValueError:
        raise ConfigurationError(
            f"{source}: expected a number, got {abbreviate(value)}{service_hint(value)}"
        ) from None
    assert bounds.ge is not None
    assert bounds.le is not None
    if not bounds.ge <= number <= bounds.le:
        raise ConfigurationError(
            f"{source}: expected {bounds.ge} to {bounds.le}, got {abbreviate(value, str)}"
        )
    return number


def locale_advice() -> str:
    """What to do about text that is no UTF-8, where the locale may have made it so."""
    encoding = sys.getfilesystemencoding()
    if encoding == "utf-8":
        return ""
    return f" (the locale's encoding is {encoding}: set LC_ALL=C.UTF-8, or another in UTF-8)"


def abbreviate(value: object, form: Callable[[object], str] = repr) -> str:
    """A value in a message: short, whatever it is."""
    try:
        text = form(value)
    except ValueError:  # an integer of too many digits
        return "a number past all bounds"
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
