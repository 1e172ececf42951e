"""`running.json` in the data directory: where commands find the `muster up` that runs on it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from muster.process.atomic_file import write_atomic
from muster.process.redis_wait import wait_for_stop

NAME: Final = "running.json"
RETRY_SECONDS = 5.0
"""After so long it is tried again to write it."""

log = structlog.get_logger("muster.up")


class Running(Struct, frozen=True, kw_only=True):
    """What `muster up` says of itself. All that is missing is empty."""

    url: str = ""
    redis_url: str = ""
    database_url: str = ""
    key_prefix: str = ""
    log_dir: str = ""
    fallback: str = ""
    """Why its log stands in for another."""
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
    """Write it; why that cannot be, or nothing."""
    content = msgspec.json.format(msgspec.json.encode(running)) + b"\n"
    try:
        write_atomic(folder / NAME, content)
    except OSError as error:
        return error.strerror or str(error)
    return ""


async def retry_write(
    folder: Path, running: Running, why: str, stopping: asyncio.Event, echo: Callable[[str], None]
) -> None:
    """Once the folder takes it. All else runs, so a full disk is no reason to end."""
    path = folder / NAME
    echo(f"  {path} cannot be written ({why}): until it can, commands need --url {running.url}")
    log.warning("up.running_file_unwritable", error=why)
    while why and not await wait_for_stop(stopping, RETRY_SECONDS) and not stopping.is_set():
        why = write(folder, running)
    if not why:
        echo(f"  {path} is written")
