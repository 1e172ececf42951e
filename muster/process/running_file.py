"""`running.json` in the data directory: where commands find the `muster up` that runs on it.

Every command imports this, so what only `muster up` needs of others is imported when it is needed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from eventstore.atomic_file import write_json

if TYPE_CHECKING:
    import asyncio

NAME: Final = "running.json"
RETRY_SECONDS = 5.0
"""Pause between attempts to write it."""


class Running(Struct, frozen=True, kw_only=True):
    """What commands need to know of a `muster up`. What is missing is empty."""

    url: str = ""
    redis_url: str = ""
    database_url: str = ""
    key_prefix: str = ""
    log_dir: str = ""
    fallback: str = ""
    """Why it runs on a fallback's log."""
    pid: int = 0


def read(folder: Path) -> Running:
    """All empty where none runs on the data directory. Raises `msgspec.MsgspecError`."""
    try:
        content = (folder / NAME).read_bytes()
    except OSError:
        return Running()
    return msgspec.json.decode(content, type=Running)


def remove(folder: Path) -> None:
    (folder / NAME).unlink(missing_ok=True)


def write(folder: Path, running: Running) -> str:
    """Write it; why that failed, else empty."""
    try:
        write_json(folder / NAME, running)
    except OSError as error:
        return error.strerror or str(error)
    return ""


async def retry_write(
    folder: Path, running: Running, why: str, stopping: "asyncio.Event", echo: Callable[[str], None]
) -> None:
    """Write it once that succeeds. All else runs, so a full disk is no reason to end."""
    import structlog

    from eventstore.ticks import set_within

    log, path = structlog.get_logger("muster.up"), folder / NAME
    echo(f"  {path} cannot be written ({why}): until it can, commands need --url {running.url}")
    log.warning("up.running_file_unwritable", error=why)
    while why and not await set_within(stopping, RETRY_SECONDS) and not stopping.is_set():
        why = write(folder, running)
    if not why:
        echo(f"  {path} is written")
