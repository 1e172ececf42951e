"""The files of an export: written page by page, read event by event; both in bounded memory."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from eventstore.atomic_file import sync_folder
from projector.exports.manifest import ExportDamaged, ExportFile, file_name
from projector.store.rows import EventRow

EVENTS_MAX: Final = 100_000
"""Of a file."""
BYTES_MAX: Final = 64 * 1024 * 1024
"""Of its lines; a page may exceed that."""
GZIP: Final = 16 + zlib.MAX_WBITS
"""zlib's name for the format of gzip, which every tool reads."""
LEVEL: Final = 6

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(EventRow)


def _private(path: str, flags: int) -> int:
    """For this user only, as the database: inputs of agents are among the events."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


class FileWriter:
    """One file. It has its name only once it is complete and on disk."""

    def __init__(self, folder: Path, first: EventRow) -> None:
        self._name = file_name(first.pool, first.generation, first.seq)
        self._path = folder / self._name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self._path.with_suffix(".part")
        self._file = open(self._part, "wb", opener=_private)  # noqa: SIM115  (until `finish`)
        self._compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
        self._hash = hashlib.sha256()
        self._written = self._lines = 0
        self._first = self._last = first
        self.next_seq = first.seq

    @property
    def full(self) -> bool:
        events = self.next_seq - self._first.seq
        return events >= EVENTS_MAX or self._lines >= BYTES_MAX

    def add(self, rows: Sequence[EventRow]) -> None:
        """Events that follow those before them without a gap."""
        assert rows[0].seq == self.next_seq
        lines = _encoder.encode_lines(rows)
        self._lines += len(lines)
        self._write(self._compressor.compress(lines))
        self._last = rows[-1]
        self.next_seq = rows[-1].seq + 1

    def finish(self) -> ExportFile:
        """Have it on disk under its name."""
        self._write(self._compressor.flush())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)
        sync_folder(self._path.parent)
        sync_folder(self._path.parent.parent)
        sync_folder(self._path.parent.parent.parent)
        first, last = self._first, self._last
        return ExportFile(
            name=self._name,
            pool=first.pool,
            generation=first.generation,
            first_seq=first.seq,
            last_seq=last.seq,
            first_ts=first.ts,
            last_ts=last.ts,
            last_event_id=last.event_id,
            bytes=self._written,
            sha256=self._hash.hexdigest(),
        )

    def abandon(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._hash.update(content)
        self._written += len(content)


def read_lines(folder: Path, file: ExportFile) -> Iterator[bytes]:
    """The lines of a file. Raises `ExportDamaged`."""
    path = folder / file.name
    try:
        with gzip.open(path, "rb") as opened:
            yield from opened
    except (OSError, EOFError, zlib.error) as error:
        raise ExportDamaged(f"{path} cannot be read: {error}") from error


def decode(folder: Path, file: ExportFile, line: bytes, seq: int) -> EventRow:
    """The event that a line must have. Raises `ExportDamaged`."""
    try:
        row = _decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise ExportDamaged(f"{folder / file.name}: seq {seq}: {error}") from error
    if (row.pool, row.generation, row.seq) != (file.pool, file.generation, seq):
        why = f"has seq {row.seq} of generation {row.generation} where seq {seq} was expected"
        raise ExportDamaged(f"{folder / file.name} {why}")
    return row


def read_rows(folder: Path, file: ExportFile) -> Iterator[EventRow]:
    """All events of a file, in order. Raises `ExportDamaged`, also where some are missing."""
    seq = file.first_seq - 1
    for seq, line in enumerate(read_lines(folder, file), file.first_seq):
        yield decode(folder, file, line, seq)
    if seq != file.last_seq:
        why = f"ends at seq {seq}, and not at {file.last_seq}"
        raise ExportDamaged(f"{folder / file.name} {why}")
