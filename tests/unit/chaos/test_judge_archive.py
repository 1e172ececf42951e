"""The judge and the storage of a log: archive and stream joined, over generations."""

import json
from dataclasses import replace

from tests.chaos.judge import Evidence, weigh
from tests.chaos.judging.entries import Entry
from tests.chaos.judging.history import Head, join
from tests.chaos.judging.streams import Registry, Streamed
from tests.chaos.stories import Story
from tests.unit.chaos.judged_story import numbers, only, sample_story


def halves(story: Story, cut: int) -> Evidence:
    """Trimmed: the stream has only what comes after the cut."""
    evidence = story.evidence()
    evidence.streamed["p"].entries = story.entries[cut:]
    return evidence


def test_a_trimmed_stream_is_continued_from_the_archive() -> None:
    assert weigh(halves(sample_story(), 9)) == []


def test_events_trimmed_before_they_were_archived_are_missed() -> None:
    evidence = halves(sample_story(), 9)
    assert evidence.views is not None
    del evidence.views.archive["p"][7:]
    found = only(weigh(evidence), "seq 8 is missing")
    assert (found.invariant, found.seq) == (5, 10)


def test_events_that_the_archive_skipped_are_found_in_the_stream() -> None:
    """Once it is trimmed there, it is nowhere."""
    evidence = sample_story().evidence()
    assert evidence.views is not None
    del evidence.views.archive["p"][7]
    [found] = weigh(evidence)
    assert (found.invariant, found.seq) == (5, 9)
    assert "in the archive seq 9 follows 7" in found.why


def test_an_archive_may_start_late_where_the_stream_has_earlier_events() -> None:
    """As with a new database, whose projector started with the streams."""
    evidence = sample_story().evidence()
    assert evidence.views is not None
    del evidence.views.archive["p"][:7]
    assert weigh(evidence) == []


def test_archive_and_stream_must_contain_the_same_event() -> None:
    evidence = sample_story().evidence()
    entries = evidence.streamed["p"].entries
    entries[3] = replace(entries[3], actor="another")
    assert only(weigh(evidence), "differ in actor").seq == 4


def test_a_log_that_ends_before_its_counter_is_found() -> None:
    """As after a trim by length from the wrong side, or a lost tail."""
    evidence = sample_story().evidence()
    evidence.streamed["p"].entries.pop()
    evidence.views = None
    assert 5 in numbers(weigh(evidence))


def test_a_log_that_exists_only_in_the_archive_is_found() -> None:
    """As when Redis lost everything unnoticed: live agents would be judged by no log."""
    evidence = sample_story().evidence()
    evidence.streamed["p"], evidence.registries["p"] = Streamed(), Registry()
    [found] = weigh(evidence)
    assert (found.invariant, found.pool) == (5, "p")
    assert "its log is gone" in found.why


def recovered(seq: int, ts: int) -> Entry:
    story = sample_story()
    data = json.dumps({"generation": 2, "from_generation": 1, "from_seq": seq - 1})
    return replace(
        story.entries[0],
        type="log.recovered",
        seq=seq,
        ts=ts,
        stream_id=f"{ts}-0",
        event_id="recovered",
        subject="p",
        worker_id="",
        data=data,
    )


def test_a_recovered_log_continues_at_the_next_seq() -> None:
    story = sample_story()
    archived = [replace(e, generation=1) for e in story.entries[:20]]
    begin = recovered(21, 2_000_000)
    history = join("p", archived, [*story.entries[:20], begin], Head(2, 21))
    assert history.offences == []
    assert [e.generation for e in history.entries[-2:]] == [1, 2]


def test_a_log_that_was_lost_before_its_first_event_starts_with_its_recovery() -> None:
    history = join("p", [], [recovered(1, 2_000_000)], Head(2, 1))
    assert history.offences == []
    assert [e.generation for e in history.entries] == [2]


def test_archived_events_that_a_recovery_lost_are_found() -> None:
    story = sample_story()
    archived = [replace(e, generation=1) for e in story.entries[:21]]
    begin = recovered(21, 2_000_000)
    history = join("p", archived, [*story.entries[:20], begin], Head(2, 21))
    assert [o.seq for o in history.offences] == [21]
    assert numbers(history.offences) == {8}


def test_a_generation_without_its_recovery_event_is_found() -> None:
    story = sample_story()
    old = [replace(e, generation=1) for e in story.entries[:20]]
    new = [replace(e, generation=2) for e in story.entries[20:]]
    history = join("p", [*old, *new], [], Head(2, len(story.entries)))
    assert "begins with log.recovered" in str(history.offences[0])


def test_a_history_without_its_start_is_judged_from_its_first_event() -> None:
    """As after the loss of the database, when streams were trimmed: one offence, not hundreds."""
    evidence = sample_story().evidence()
    evidence.views = None
    entries = evidence.streamed["p"].entries
    del entries[:9]
    assert [o.why for o in weigh(evidence)] == ["the history begins with it"]
    assert weigh(evidence, partial=True) == []
    entries[3] = replace(entries[3], event_id=entries[2].event_id)
    assert numbers(weigh(evidence, partial=True)) == {5}
