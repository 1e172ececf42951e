"""What a gateway counts, and stops to count."""

from eventstore.language import events
from gateway.following.counters import Observations

SCALED = (
    b'{"reason":"load","current":0,"desired":1,"pending":1,"restarting":0,"running":0,"free":0,'
    b'"ordered":0,"maximum":9}'
)


def entry(type_: str, subject: str, data: bytes, ts: int = 5) -> tuple[bytes, list[bytes]]:
    values = dict.fromkeys(events.ENTRY_FIELDS, b"0") | {
        "type": type_.encode(), "subject": subject.encode(), "ts": b"%d" % ts, "data": data
    }  # fmt: skip
    return b"1-1", [part for name, value in values.items() for part in (name.encode(), value)]


def test_a_pool_that_was_removed_has_no_series_any_more() -> None:
    observed = Observations()
    for pool in ("gone", "there"):
        observed.consume(
            pool,
            [
                entry("agent.requested", f"a-{pool}", b"{}"),
                entry("agent.started", f"a-{pool}", b"{}", ts=9),
                entry("agent.restarting", f"a-{pool}", b'{"reason":"crashed"}'),
                entry("pool.scaling_decided", pool, SCALED),
            ],
        )
        assert observed.since(f"views:{pool}", "stopped") > 0
    assert "gone" in repr(vars(observed))
    observed.forget("gone")
    assert "gone" not in repr(vars(observed))
    assert observed.restarts == {("there", "crashed"): 1}
    assert observed.schedule_to_start.keys() == {"there"}
