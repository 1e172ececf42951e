"""A story that everything is planted into, and words for what is found."""

from dataclasses import replace
from typing import Any

from tests.chaos.judge import Evidence
from tests.chaos.judging.offences import Offence
from tests.chaos.stories import Story


def sample_story() -> Story:
    """Two workers, one of them lost; agents that run, wait, ended, failed and start again."""
    story = Story()
    story.start(story.order("w1", slots=3))
    story.start(story.order("w2"))
    for name in ("runs", "moved", "ended", "failed", "waits"):
        story.spawn(name)
    for name in ("runs", "moved", "ended"):
        story.run(name, "w1")
    story.terminate("ended")
    story.end("ended")
    story.run("failed", "w2")
    story.fail("failed", limit=0)
    story.reap("w1")
    story.run("moved", "w2")
    return story


def plant(story: Story, at: int, **changes: Any) -> Evidence:
    """With one event changed, in stream and archive."""
    entries = list(story.entries)
    entries[at] = replace(entries[at], **changes)
    return story.evidence(entries)


def place(story: Story, kind: str, subject: str = "", nth: int = 0) -> int:
    """The position of an event."""
    found = [
        i for i, e in enumerate(story.entries) if e.type == kind and subject in {"", e.subject}
    ]
    return found[nth]


def numbers(offences: list[Offence]) -> set[int]:
    return {offence.invariant for offence in offences}


def only(offences: list[Offence], why: str) -> Offence:
    """The one offence with these words."""
    [found] = [offence for offence in offences if why in offence.why]
    return found
