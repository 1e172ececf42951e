"""What `muster up` says at the terminal."""

import contextlib
import time

from muster.settings.addresses import redacted
from muster.settings.settings import Settings


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that was closed must not stop the stopping
        print(text, flush=True)


def line(what: str, text: str, pid: int | None = None, began: float | None = None) -> None:
    """One part that serves, or is waited for; `began`: when its start did, by `monotonic`."""
    rest = f"  pid {pid}" if pid else ""
    rest += f", {time.monotonic() - began:.2f} s" if began is not None else ""
    say(f"  {what:<11} {text}{rest}")


def about(role: str, settings: Settings, url: str) -> str:
    """What is said of a role that serves."""
    match role:
        case "projector":
            if settings.stand_in_views:
                return f"views in {settings.stand_in_views} (the fallback's)"
            source = settings.sources.get("database_url")
            if not source:
                return f"views in {settings.views_file} (SQLite)"
            return f"views in {redacted(settings.views_url)} ({source})"
        case "supervisor":
            return f"roles {', '.join(settings.roles)}"
        case _:
            return url


def say_ready(settings: Settings, url: str, seconds: float) -> None:
    """That all serve, after `seconds`, and what one may ask for now."""
    name, pool = next(iter(settings.pools.items()), ("POOL", None))
    role = pool.role if pool else "ROLE"
    token = ' -H "Authorization: Bearer $MUSTER_API_TOKEN"' if settings.api_token else ""
    body = f'{{"project_id": "demo", "role_type": "{role}", "pool_name": "{name}"}}'
    say(f"\nReady in {seconds:.1f} s: {url}\n\nAsk for an agent:\n")
    say(f"  curl {url}/api/v1/agents/spawn{token} \\")
    say("    -H 'Content-Type: application/json' \\")
    say(f"    -d '{body}'\n")
    say(f"Look: {url}/ in a browser, `muster ps`, `muster tail --follow`. Stop: Ctrl-C.")


def remedy(settings: Settings) -> str:
    """What is to be done where a log is lost."""
    if settings.auto_recover:
        return "it is recovered by itself"
    return f"run `muster recover --data-dir {settings.data_dir}`"
