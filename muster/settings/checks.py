"""What is refused about settings that are valid one by one."""

import socket
from typing import Final
from urllib.parse import urlsplit

from eventstore.errors import ConfigurationError
from eventstore.language.durability import Level
from muster.settings import addresses
from muster.settings.settings import LOOPBACK, Settings, abbreviate

DAY_SECONDS: Final = 86_400


def check(settings: Settings, *, listens: bool) -> None:
    """Raises `ConfigurationError`. `listens`: the process answers HTTP."""
    if listens:
        _check_host(settings)
        if settings.tls_key is not None and settings.tls_cert is None:
            raise ConfigurationError(
                f"{settings.source('tls_key')}: a key without a certificate: name that, too"
                " (tls_cert)"
            )
    if settings.metrics_port:
        _require_address(settings.metrics_host, settings.source("metrics_host"), "metrics-")
    for name in ("agents_database_url", "pgbouncer_url"):
        addresses.validate_address(getattr(settings, name), settings.source(name))
    check_key_prefix(settings.key_prefix, settings.source("key_prefix"))
    _check_intervals(settings)
    if settings.retention_archive_days:
        _check_archive(settings)
    if settings.reload:
        _check_reload(settings)
    if not settings.redis_url:
        _check_durability(settings)


def check_key_prefix(prefix: str, source: str) -> None:
    if "{" in prefix or "}" in prefix:
        raise ConfigurationError(f"{source}: braces are not allowed, they mark the Cluster slot")


def _check_archive(settings: Settings) -> None:
    """What is removed from the archive is exported before, and needed by nothing else."""
    days, source = settings.retention_archive_days, settings.source("retention_archive_days")
    if settings.archive_dir is None:
        raise ConfigurationError(
            f"{source}: name the folder to which events are exported before they leave the archive"
            " (archive_dir)"
        )
    others = {
        "retention_age_seconds": settings.retention_age_seconds / DAY_SECONDS,
        "retention_keys_seconds": settings.retention_keys_seconds / DAY_SECONDS,
        "retention_views_days": settings.retention_views_days,
    }
    if days < 1:
        raise ConfigurationError(f"{source}: expected 0 (never) or 1 to 36500, got {days:g}")
    for name, needed in others.items():
        if days < needed:
            raise ConfigurationError(
                f"{source}: {name} is {needed:g} days: the archive has to have as many"
            )


def _check_durability(settings: Settings) -> None:
    """Of an embedded server."""
    if settings.durability == Level.REPLICATED:
        raise ConfigurationError(
            "durability: the embedded server has no replicas; name a Redis that has, or choose"
            " accepted, fsynced or archived"
        )
    if settings.durability == Level.FSYNCED and settings.appendfsync != "always":
        raise ConfigurationError(
            f"durability: fsynced needs appendfsync always, not {settings.appendfsync}"
        )


def _check_reload(settings: Settings) -> None:
    """It is for development: a deployment would drain all workers while files are copied."""
    place, why = settings.source("reload"), ""
    for name in ("redis_url", "database_url"):
        if urlsplit(getattr(settings, name)).hostname not in (None, *LOOPBACK):
            why = f"it is for development, but {settings.source(name)} is not on this machine"
    if settings.single_process:
        why = "there are no worker processes to replace with single_process"
    elif settings.app_dir is None:
        why = "there is no code to watch: name a configuration file, or app_dir"
    if why:
        raise ConfigurationError(f"{place}: {why}")


def _check_intervals(settings: Settings) -> None:
    bounds = {
        "heartbeat_interval": settings.min_heartbeat_interval,
        "max_idle_time": settings.min_idle_time,
    }
    for pool, declaration in settings.pools.items():
        for name in bounds.keys() & declaration.settings.keys():
            value = getattr(declaration.config(), name)
            if value and value < bounds[name]:
                raise ConfigurationError(
                    f"{settings.config}: [pools.{pool}]: {name} is at least {bounds[name]:g} s"
                    f" (min_{name.removeprefix('max_')}), not {value:g}"
                )


def _check_host(settings: Settings) -> None:
    _require_address(settings.host, settings.source("host"))
    _check_access(settings)


def _require_address(host: str, source: str, flags: str = "") -> None:
    """`flags`: how those of the address and its port begin."""
    expected = "an address to listen on, such as 127.0.0.1, or 0.0.0.0 for all"
    if host.startswith("[") and host.endswith("]"):
        expected = f"an IPv6 address without brackets: {abbreviate(host[1:-1], str)}"
    elif host.count(":") == 1:
        name, _, port = (abbreviate(part, str) for part in host.partition(":"))
        expected = f"no port here, but --{flags}host {name} --{flags}port {port}"
    elif addresses.is_host_name(host) and not any(c.isspace() or c == "/" for c in host):
        return
    raise ConfigurationError(f"{source}: expected {expected}, got {abbreviate(host)}")


def _check_access(settings: Settings) -> None:
    host = settings.host
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:  # first: to ask for a token for it would mislead
        raise ConfigurationError(
            f"{settings.source('host')}: the name {abbreviate(host)} does not resolve:"
            f" {error.strerror}"
        ) from None
    if host not in LOOPBACK and not settings.api_token:
        raise ConfigurationError(
            f"host {abbreviate(host, str)} can be reached from outside this machine: set"
            " MUSTER_API_TOKEN (clients then send it as a bearer token), or use 127.0.0.1"
        )
