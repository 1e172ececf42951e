"""Small files that are there whole or not at all, also after a crash."""

import os
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> None:
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
    """Have on disk what was created, renamed or removed in a folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
