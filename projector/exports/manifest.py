"""An export of the archive: a folder of compressed files of events, and a manifest that lists them.

    FOLDER/manifest.json                             what there is: positions and checksums
    FOLDER/events/POOL/GENERATION-FIRST.jsonl.gz     events of one log, one JSON object a line

The events of a file have every `seq` from its first to its last. A file that the manifest lists
never changes; the manifest is replaced in one step, once the file is on disk. So an export may be
interrupted anywhere: what is not listed is written again.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import msgspec
from msgspec import Struct, field

from eventstore.atomic_file import write_json
from eventstore.errors import MusterError
from eventstore.keys import CATALOGUE
from eventstore.version import __version__

FORMAT: Final = 1
"""Raised when an older Muster could not read the files."""
MANIFEST: Final = "manifest.json"
CATALOGUE_FOLDER: Final = "@catalogue"
"""The folder of the catalogue, which has no name; no pool can have this one."""

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class ExportDamaged(MusterError):
    """A file of an export is missing, is not the one that was written, or cannot be read."""


class ExportRefused(MusterError):
    """The folder cannot be used: it is none of an export, of another archive, or is in use."""


class ExportFile(Struct, frozen=True, kw_only=True):
    """Events of one log, in one generation. Times are milliseconds of log time."""

    name: str
    """Its path in the folder."""
    pool: str
    """Empty for the catalogue."""
    generation: _Positive
    first_seq: _Positive
    last_seq: _Positive
    first_ts: int
    last_ts: int
    last_event_id: str
    bytes: int
    sha256: str
    """Of the file as it is, compressed."""

    @property
    def events(self) -> int:
        return self.last_seq - self.first_seq + 1

    @property
    def order(self) -> tuple[int, int]:
        return self.generation, self.first_seq


class Manifest(Struct, kw_only=True):
    """What an export contains; `files` is in no order that counts."""

    format: int = FORMAT
    written_by: str = f"muster {__version__}"
    files: list[ExportFile] = field(default_factory=list)

    def pools(self) -> list[str]:
        """Those of which there are events; '' is the catalogue."""
        return sorted({file.pool for file in self.files})

    def of_pool(self, pool: str) -> list[ExportFile]:
        """In the order of the log."""
        return sorted((f for f in self.files if f.pool == pool), key=lambda file: file.order)

    @property
    def events(self) -> int:
        return sum(file.events for file in self.files)


class PoolRange(Struct, frozen=True):
    """Events of one generation of a log without a gap between them."""

    pool: str
    generation: int
    first_seq: int
    last_seq: int


def ranges(manifest: Manifest) -> Iterator[PoolRange]:
    """What is exported, log by log: one range for each generation, more where some are missing."""
    for pool in manifest.pools():
        found: list[PoolRange] = []
        for file in manifest.of_pool(pool):
            first = file.first_seq
            last = found[-1] if found else None
            if last and last.generation == file.generation and last.last_seq + 1 == first:
                found.pop()
                first = last.first_seq
            found.append(PoolRange(pool, file.generation, first, file.last_seq))
        yield from found


def file_name(pool: str, generation: int, first_seq: int) -> str:
    """The path of a file in its folder."""
    folder = CATALOGUE_FOLDER if pool == CATALOGUE else pool
    return f"events/{folder}/{generation:04}-{first_seq:012}.jsonl.gz"


def read_manifest(folder: Path) -> Manifest:
    """Raises `ExportRefused` where there is none, or one that this version cannot read."""
    path = folder / MANIFEST
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        why = f"{folder} is no folder of an export: it has no {MANIFEST}"
        raise ExportRefused(why) from None
    except (OSError, msgspec.MsgspecError) as error:
        raise ExportRefused(f"{path} cannot be read: {error}") from error
    if found.format > FORMAT:
        why = f"{path} is of format {found.format}, written by {found.written_by}; this version"
        raise ExportRefused(f"{why} reads format {FORMAT}: use a newer one")
    for file in found.files:
        _require_inside(path, file)
    return found


def _require_inside(path: Path, file: ExportFile) -> None:
    """Raises `ExportRefused` for a file that the manifest names and that is not in the folder."""
    if file.name != file_name(file.pool, file.generation, file.first_seq) or (
        ".." in PurePosixPath(file.name).parts or file.last_seq < file.first_seq
    ):
        raise ExportRefused(f"{path} names {file.name[:200]!r}, which no export writes")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace it, and have it on disk before returning."""
    write_json(folder / MANIFEST, manifest)


def read_or_begin(folder: Path) -> Manifest:
    """The manifest of an export that goes on, or of one that begins in an empty or new folder.

    Raises `ExportRefused` for a folder with something else in it.
    """
    if (folder / MANIFEST).exists():
        return read_manifest(folder)
    if folder.exists() and not folder.is_dir():
        raise ExportRefused(f"{folder} is a file: name a new or an empty folder")
    entries = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    if others := sorted(name for name in entries if name not in ("events", LOCK)):
        why = f"{folder} has no {MANIFEST}, but {others[0]!r}: name a new or an empty folder"
        raise ExportRefused(why)
    return Manifest()


LOCK: Final = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process adds to the folder, which is created. Raises `ExportRefused`."""
    read_or_begin(folder)  # else the lock would be put into a folder that is refused
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ExportRefused(f"{folder} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExportRefused(f"another export writes to {folder}") from None
        yield
    finally:
        os.close(handle)


def require_intact(folder: Path, file: ExportFile) -> None:
    """Raises `ExportDamaged` unless the file is the one that was written."""
    path = folder / file.name
    try:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ExportDamaged(f"{path}: {error.strerror or error}") from error
    if found != file.sha256:
        why = f"its SHA-256 is {found}, and {file.sha256} when it was written"
        raise ExportDamaged(f"{path} is damaged: {why}")
