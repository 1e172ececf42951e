"""What `muster up` prints at the terminal."""

import contextlib
import shutil
import sys
import time
from pathlib import Path

from muster.settings.addresses import redacted
from muster.settings.settings import Settings
from workers.host.lock import LOCK_TIMEOUT_SECONDS, HostLock, LockRefused
from workers.host.processes import host_name


def echo(text: str) -> None:
    with contextlib.suppress(OSError):  # a closed terminal must not prevent an orderly stop
        print(text, flush=True)


def echo_status(
    name: str, text: str, pid: int | None = None, started_at: float | None = None
) -> None:
    """A line for one part; `started_at`: by `monotonic`."""
    suffix = f"  pid {pid}" if pid else ""
    suffix += f", {time.monotonic() - started_at:.2f} s" if started_at is not None else ""
    echo(f"  {name:<11} {text}{suffix}")


def report_other_supervisor(settings: Settings) -> None:
    """Print that this host has a supervisor for that Redis: ours waits for its end, or gives up."""
    if not settings.redis_url:  # a server of our own, whose folder is locked
        return
    host = settings.host_id or host_name()
    with contextlib.suppress(LockRefused):  # which the supervisor reports
        if HostLock(host, settings.redis_url, settings.key_prefix).is_taken():
            echo_status(
                "supervisor",
                "this host already has one for this Redis and key prefix; waiting up to"
                f" {LOCK_TIMEOUT_SECONDS:g} s for it to end. Stop the other `muster up`, or give"
                " this one another Redis or --key-prefix",
            )


def describe_role(role: str, settings: Settings, url: str) -> str:
    """What is printed of a role that serves."""
    if role == "gateway":
        return url
    metrics = f", {settings.metrics_url}" if settings.metrics_port else ""
    if role == "supervisor":
        return f"roles {', '.join(settings.roles)}{metrics}"
    return _views(settings) + metrics


def _views(settings: Settings) -> str:
    """Where the projector writes."""
    if settings.fallback_views_url:
        return f"views in {settings.fallback_views_url} (the fallback's)"
    if source := settings.sources.get("database_url"):
        return f"views in {redacted(settings.views_url)} ({source})"
    return f"views in {settings.views_file} (SQLite)"


def echo_ready(settings: Settings, url: str, seconds: float) -> None:
    """Print that all roles serve, after `seconds`, and a first command."""
    name, pool = next(iter(settings.pools.items()), ("POOL", None))
    role = pool.role if pool else "ROLE"
    token = ' -H "Authorization: Bearer $MUSTER_API_TOKEN"' if settings.api_token else ""
    body = f'{{"project_id": "demo", "role_type": "{role}", "pool_name": "{name}"}}'
    echo(f"\nReady in {seconds:.1f} s: {url}\n\nAsk for an agent:\n")
    echo(f"  curl {url}/api/v1/agents/spawn{token} \\")
    echo("    -H 'Content-Type: application/json' \\")
    echo(f"    -d '{body}'\n")
    top, tail = (_command(settings, words) for words in ("top", "tail --follow"))
    echo(f"See: {url}/ in a browser, `{top}`, `{tail}`. Stop: Ctrl-C.")


def _command(settings: Settings, words: str) -> str:
    """As it can be typed in another terminal in the same folder."""
    started_as = Path(sys.argv[0])
    known = shutil.which("muster") or started_as.name != "muster"
    folder = "" if settings.data_dir == Path(".muster") else f" --data-dir {settings.data_dir}"
    return f"{'muster' if known else started_as} {words}{folder}"


def remedy(settings: Settings) -> str:
    """What to do where a log is lost."""
    if settings.auto_recover:
        return "it is recovered by itself"
    return f"run `muster recover --data-dir {settings.data_dir}`"
