"""Small files that are complete or absent, also after a crash."""

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from eventstore.errors import ConfigurationError

T = TypeVar("T")


def read_json(path: Path, kind: type[T]) -> T:
    """Raises `ConfigurationError` for a file that is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def write_json(path: Path, value: object) -> None:
    """Replace a file by indented JSON, as `write_bytes` does."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step, and have it on disk before returning."""
    temporary = path.with_name(f".{path.name}.new")
    handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write to disk what was created, renamed or removed in a folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
