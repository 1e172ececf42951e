"""What all of `muster up` uses: its lines at the terminal, and its background tasks."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine

import structlog

from muster.settings.addresses import redacted
from muster.settings.settings import Settings

log = structlog.get_logger("muster.up")


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


def describe_role(role: str, settings: Settings, url: str) -> str:
    """What is printed of a role that serves."""
    if role == "supervisor":
        return f"roles {', '.join(settings.roles)}"
    if role != "projector":
        return url
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
    echo(f"See: {url}/ in a browser, `muster ps`, `muster tail --follow`. Stop: Ctrl-C.")


def remedy(settings: Settings) -> str:
    """What to do where a log is lost."""
    if settings.auto_recover:
        return "it is recovered by itself"
    return f"run `muster recover --data-dir {settings.data_dir}`"


class Background:
    """Tasks that run until all ends. `stopping` is set once the end is asked for."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Do it until the end. A failure is reported, since no caller waits for the task."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._report_failure)
        self._tasks.append(task)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @staticmethod
    def _report_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            echo(f"a defect of Muster: its task {task.get_name()} has failed: {error!r}")
            log.error("up.task_failed", task=task.get_name(), exc_info=error)
