"""Exports and imports for tests, and what is in them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from projector.archive.export import Exported, export_archive
from projector.archive.importing import Imported, import_archive
from projector.archive.pace import Care
from projector.archive.pruning import PrunedPool, prune
from projector.exports.files import read_rows
from projector.exports.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from projector.store.database import Database
from projector.store.rows import EventRow
from projector.store.tables import run


def in_order(rows: Sequence[EventRow]) -> list[EventRow]:
    return sorted(rows, key=lambda row: (row.pool, row.generation, row.seq))


async def exported(database: Database, folder: Path) -> Exported:
    return await export_archive(database, folder, lambda _: None)


async def imported(database: Database, folder: Path) -> Imported:
    return await import_archive(database, folder, lambda _: None)


async def archived_rows(database: Database) -> list[EventRow]:
    """The whole archive."""
    names = ", ".join(EventRow.__struct_fields__)
    query = f"SELECT {names} FROM {{}}events"
    found = await database.read(lambda c: [EventRow(*row) for row in run(c, query)])
    return in_order(found)


def exported_rows(folder: Path) -> list[EventRow]:
    def rows() -> Iterator[EventRow]:
        for file in read_manifest(folder).files:
            yield from read_rows(folder, file)

    return in_order(list(rows()))


def edit_manifest(folder: Path, **changes: object) -> None:
    """Change the last file's entry."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    manifest.files[-1] = msgspec.structs.replace(manifest.files[-1], **changes)
    write_manifest(folder, manifest)


async def delete_before(database: Database, pool: str, seq: int) -> None:
    """As if the archive started there."""
    statement = "DELETE FROM {}events WHERE pool = ? AND seq < ?"
    await database.write(lambda c: run(c, statement, pool, seq))


DAY_MS = 86_400_000
REMOVED = 5
"""Several transactions for every pruning."""


async def pruned(
    database: Database, folder: Path, before_ms: int, *, later_ms: int = 3 * DAY_MS
) -> list[PrunedPool]:
    """Prune, as it would be so much later."""
    now_ms = before_ms + later_ms
    care = Care(removed=REMOVED)
    return await prune(database, folder, before_ms, lambda _: None, now_ms=now_ms, care=care)
