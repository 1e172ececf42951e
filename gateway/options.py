"""The options of a gateway, set once at its start. Nothing in this room reads the environment."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from eventstore.language.alerts import AlertBody
from eventstore.language.pool_config import PoolConfig, override
from eventstore.retention import Retention
from gateway.fallback import Fallback

LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1")


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of requests and waits. Sizes in bytes, times in seconds."""

    heartbeat_interval_min: float = 10.0
    idle_time_min: float = 60.0
    body_max: int = 128 * 1024
    input_max: int = 64 * 1024
    header_max: int = 8190
    connections_max: int = 20_000
    """Clients at once; fewer where the operating system does not allow as many open files."""
    head_seconds: float = 10.0
    """How long the head of a request may take once it has started."""
    body_seconds: float = 20.0
    idle_seconds: float = 75.0
    """How long a connection may be idle between requests, or before the first."""
    linger_seconds: float = 2.0
    """How long what a refused client still sends is read, so that it receives the answer."""
    unread_seconds: float = 30.0
    """A client that reads nothing of its answer for so long is cut off."""
    wait_default: float = 5.0
    wait_max: float = 60.0
    waiters_max: int = 10_000
    """So many requests may wait at once; one more is answered at once, as with respond-async."""
    catch_up_seconds: float = 2.0
    """How long a read waits for the views to reach what was acknowledged."""
    durability_seconds: float = 2.0
    """How long a command waits for the level of durability that it asked for."""
    query_seconds: float = 5.0
    probe_seconds: float = 0.5
    """How long `/readyz` waits for the database, and for Redis: whoever probes waits for a second,
    say, and takes a gateway that does not answer out of service."""
    ready_lag_seconds: float = 10.0
    """`/readyz` warns of views that are further behind than this."""
    streams_max: int = 200
    """Clients of the event stream; each may fall `stream_queue` events behind."""
    stream_queue: int = 2_000
    stream_heartbeat_seconds: float = 15.0
    alert_seconds: float = 5.0
    """How often the gateway that writes alerts decides which apply."""
    shutdown_seconds: float = 5.0


class Webhook(Struct, frozen=True, kw_only=True):
    """Where alerts are sent. `secrets`: each signs, so that a receiver may change from one to
    another. `severity`: the lowest; `pools`: only of these, of all if there are none."""

    name: str
    url: str
    secrets: tuple[bytes, ...]
    severity: str = "warning"
    pools: tuple[str, ...] = ()
    trusted: bool = True
    """Whether its address may be one that is not public: its configuration said so."""

    def wants(self, alert: AlertBody) -> bool:
        """Whether an event of this alert is sent."""
        severe = alert.severity == "critical" or self.severity == "warning"
        return severe and (not self.pools or alert.pool_name in self.pools)

    def __repr__(self) -> str:
        """Without secrets, which the address may have, too."""
        return f"Webhook(name={self.name!r})"


class GatewayOptions(Struct, frozen=True, kw_only=True):
    """One gateway. `hostnames`: what `Host` may say, `*` for anything; no ports."""

    redis_url: str
    database_url: str
    roles: tuple[str, ...]
    key_prefix: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    api_token: str | None = None
    hostnames: tuple[str, ...] = LOCAL_NAMES
    tls_cert: str = ""
    """The file of its certificate in PEM form; empty: it speaks plain HTTP."""
    tls_key: str = ""
    """The file of the key; empty: it is in that of the certificate."""
    access_log: bool = False
    """Whether each request is logged at the level of what an operator reads."""
    version: str = "0"
    mode: str = "processes"
    fallback: Fallback | None = None
    """Set if the log replaces another."""
    handover_failures_path: str = ""
    """The file of what could not be handed over from fallbacks, if any."""
    durability: str = "accepted"
    """The level of commands that request none."""
    durability_replicas: int = 1
    """So many replicas must have what is `replicated`."""
    role_defaults: Mapping[str, Mapping[str, Any]] = {}
    """Settings of pools, by the role of their agents."""
    webhooks: tuple[Webhook, ...] = ()
    """Those of the configuration file."""
    webhook_private_addresses: bool = False
    """Whether webhooks that were made over HTTP may send to addresses that are not public."""
    otel: bool = False
    """Whether requests are traced by OpenTelemetry."""
    limits: Limits = Limits()
    retention: Retention = Retention()

    def defaults_of(self, role: str) -> PoolConfig:
        """What a new pool of this role has, where nothing else is said."""
        usual = msgspec.to_builtins(PoolConfig())
        return msgspec.convert(override(usual, self.role_defaults.get(role, {})), PoolConfig)

    def __repr__(self) -> str:
        """Without secrets: the token, and the passwords in addresses."""
        return f"GatewayOptions(host={self.host!r}, port={self.port}, roles={self.roles!r})"
