"""A recovered catalogue is folded again while it is written and followed."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from eventstore.errors import UnknownEvent
from eventstore.keys import Keys
from eventstore.language import catalogue
from eventstore.language.events import (
    ENTRY_FIELDS,
    AnyBody,
    Event,
    HostJoined,
    HostLeft,
    LogRecovered,
    PoolChanged,
    encode_body,
)
from eventstore.language.pool_config import PoolConfig, read_config, write_config
from eventstore.log.catalogue import CatalogueLog
from eventstore.log.log import Log
from eventstore.log.reader import Entry, Reader


def entry(at_ms: int, seq: int, body: AnyBody, subject: str) -> Entry:
    fields = {"type": body.type, "version": str(body.version), "seq": str(seq), "ts": str(at_ms)}
    fields |= {"subject": subject, "data": encode_body(body).decode()}
    flat = [text for name in ENTRY_FIELDS for text in (name, fields.get(name, ""))]
    return f"{at_ms}-0".encode(), [text.encode() for text in flat]


def joined(at_ms: int, seq: int, host: str) -> Entry:
    return entry(at_ms, seq, HostJoined(hostname=host, pid=1), host)


class Stream:
    """The entries of the catalogue. `late` is added right after the last read, and is followed."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = list(entries)
        self.late: Entry | None = None
        self.catalogue = CatalogueLog(cast("Log", self), cast("Reader", self))
        self.keys = Keys()

    async def range(self, _: str, first: str, *__: Any, **___: Any) -> list[Entry]:
        after = int(first.strip("(").partition("-")[0])
        found = [one for one in self.entries if int(one[0].partition(b"-")[0]) > after]
        if not found and self.late is not None:
            late, self.late = self.late, None
            self.follow(late)
        return found

    async def catalogue_snapshot(self) -> catalogue.Catalogue:
        return catalogue.Catalogue()

    def follow(self, one: Entry) -> None:
        self.entries.append(one)
        self.catalogue.apply([one])


async def test_entries_added_while_a_recovered_catalogue_is_folded_are_included():
    stream = Stream([joined(seq, seq, f"h{seq}") for seq in range(1, 6)])
    await stream.catalogue.refresh()
    del stream.entries[3:]
    recovered = LogRecovered(
        generation=2, from_generation=1, from_seq=3, known_seq=5, reason="rolled back"
    )
    stream.follow(entry(10, 4, recovered, ""))
    assert stream.catalogue.invalidated
    stream.late = joined(11, 5, "late")
    await stream.catalogue.refresh()
    stream.follow(joined(12, 6, "next"))
    state = await stream.catalogue.refresh()
    assert sorted(state.hosts) == ["h1", "h2", "h3", "late", "next"]


def test_entries_are_folded_once_each_and_states_that_were_read_before_stay_as_they_were():
    """Ten thousand boots are no reason to copy ten thousand hosts ten thousand times."""
    stream = Stream([])
    before = stream.catalogue.apply([joined(1, 1, "first")])
    copies, copy_of = 0, catalogue.copy_of

    def count(state: catalogue.Catalogue) -> catalogue.Catalogue:
        nonlocal copies
        copies += 1
        return copy_of(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "copy_of", count)
        after = stream.catalogue.apply([joined(n, n, f"h{n}") for n in range(2, 500)])
    assert (len(before.hosts), len(after.hosts), copies) == (1, 499, 1)


def test_what_precedes_an_unreadable_entry_is_folded():
    stream = Stream([])
    unreadable = entry(3, 3, HostLeft(reason="odd"), "unknown")
    with pytest.raises(UnknownEvent):
        stream.catalogue.apply([joined(2, 2, "known"), unreadable, joined(4, 4, "later")])
    assert (list(stream.catalogue.state.hosts), stream.catalogue.state.seq) == (["known"], 2)


def test_shadow_policies_of_a_newer_version_are_retained_and_not_tried():
    known, later = {"q": {"buffer": 3}}, {"q": {"buffer": 3, "mood": "calm"}}
    config, unknown = read_config(msgspec.json.encode({"shadow": known, "start_limit": 5}))
    assert (list(config.shadow_policies), unknown) == (["q"], {})
    config, unknown = read_config(msgspec.json.encode({"shadow": later, "max_workers": 7}))
    assert (config.shadow, config.max_workers, unknown) == (None, 7, {"shadow": later})
    assert msgspec.json.decode(write_config(config, unknown))["shadow"] == later


def test_a_change_of_a_pool_that_is_unknown_changes_nothing():
    state = catalogue.Catalogue()
    event = Event(
        event_id="e", seq=1, ts=1, subject="p", body=PoolChanged(write_config(PoolConfig()))
    )
    with pytest.raises(KeyError):
        catalogue.evolve(state, event)
    assert state == catalogue.Catalogue()


def test_a_snapshot_is_the_fold_with_settings_that_only_a_newer_version_knows():
    config = PoolConfig(max_workers=7)
    unknown: dict[str, object] = {"colour": "red", "shades": [1, 2]}
    pool = catalogue.Pool(pool_name="p", role_type="r", config=config, unknown=unknown, version=3)
    host = catalogue.Host(host="h", hostname="n", status="left", joined_ms=5)
    state = catalogue.Catalogue(pools={"p": pool}, hosts={"h": host}, seq=9, stream_id="8-1")
    encoded = catalogue.encode_snapshot(state)
    assert catalogue.decode_snapshot(encoded) == state
    with pytest.raises(ValueError, match="format 2, this version reads 1"):
        catalogue.decode_snapshot(encoded.replace(b'"format":1', b'"format":2'))
