"""The judge and causes: an event that names none, or one that is not before it, is found."""

from dataclasses import replace

import pytest

from tests.chaos.judge import weigh
from tests.chaos.judging import causes
from tests.unit.chaos.judged_story import only, place, plant, sample_story


@pytest.mark.parametrize("kind", ["agent.claimed", "agent.started", "worker.started", "agent.lost"])
@pytest.mark.parametrize(("cause", "why"), [("", "does not name"), ("e999", "not before it")])
def test_an_event_without_its_cause_is_found(kind: str, cause: str, why: str) -> None:
    story = sample_story()
    at = next(i for i, entry in enumerate(story.entries) if entry.type == kind)
    found = only(weigh(plant(story, at, causation_id=cause)), why)
    assert (found.invariant, found.type, found.seq) == (6, kind, story.entries[at].seq)


def test_a_cause_that_comes_later_is_none() -> None:
    story = sample_story()
    at = place(story, "agent.claimed", "moved")
    later = plant(story, at, causation_id=story.entries[-1].event_id)
    assert only(weigh(later), "not before it").subject == "moved"


def test_a_log_of_an_older_version_has_no_causes_to_be_missed() -> None:
    older = [replace(entry, causation_id="") for entry in sample_story().entries]
    assert list(causes.judge(older)) == []


def test_after_an_upgrade_only_the_first_event_of_each_may_lack_its_cause() -> None:
    """What the older version changed last has no id of that event in its hash."""
    entries, half = sample_story().entries, len(sample_story().entries) // 2
    older = [replace(entry, causation_id="") for entry in entries[:half]]
    seen = {entry.subject for entry in older}
    mixed = list(older)
    for entry in entries[half:]:
        mixed.append(replace(entry, causation_id="") if entry.subject in seen else entry)
        seen.discard(entry.subject)
    assert list(causes.judge(mixed)) == []
