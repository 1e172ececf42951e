"""Exports of the archive, and what a pruning has left: nothing may be in neither.

It reads the files by itself, as anyone can: a manifest, and JSON lines in gzip.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.judging.database import Database
from tests.chaos.judging.entries import CATALOGUE, Entry, of_row
from tests.chaos.judging.offences import Offence

Key = tuple[int, int]
"""Generation and seq."""


def read(folder: Path) -> tuple[dict[str, dict[Key, Entry]], list[Offence]]:
    """The events of an export by log, and files that are not as they were written."""
    found: dict[str, dict[Key, Entry]] = {}
    offences = []
    for file in json.loads((folder / "manifest.json").read_bytes())["files"]:
        path = folder / file["name"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
            why = f"{file['name']} of the export is not as it was written"
            offences.append(Offence(5, why, file["pool"]))
            continue
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                entry = of_row(json.loads(line))
                found.setdefault(file["pool"], {})[entry.generation, entry.seq] = entry
    return found, offences


def add(database: Database, folder: Path) -> list[Offence]:
    """Put what was pruned into the archive, as it was before; returns what is wrong with it."""
    exported, offences = read(folder)
    offences += judge_starts(database)
    for pool, entries in exported.items():
        archived = {
            (entry.generation, entry.seq): entry for entry in database.archive.get(pool, ())
        }
        for key in sorted(entries.keys() & archived.keys()):
            if entries[key] != archived[key]:
                why = "the export and the archive have it in two forms"
                offences.append(archived[key].offence(5, why))
        both = {**entries, **archived}
        database.archive[pool] = [both[key] for key in sorted(both)]
    return offences


def judge_starts(database: Database) -> Iterator[Offence]:
    """The archive of a log reaches back to where it was pruned to, and a whole one to its start."""
    for pool, entries in database.archive.items():
        pruned = database.starts.get(pool, (0, 0))[1]
        first = entries[0]
        if pool == CATALOGUE and pruned:
            yield first.offence(5, "the catalogue was pruned")
        elif first.seq > pruned + 1 and pool in database.starts:
            why = f"the archive begins with it, although it was pruned up to seq {pruned} only"
            yield first.offence(5, why)
