"""Explains what became of an agent, a worker or a pool: pure, from its events and their causes."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

from eventstore.keys import CATALOGUE
from eventstore.language import events
from eventstore.language.events import Event
from projector.explain import agents, pools, workers
from projector.explain.story import Known, Scene, Story
from projector.store.explanations import Cause, Line

SENTENCES: Final = {**agents.SENTENCES, **workers.SENTENCES, **pools.SENTENCES}
"""By type of event. A type that is added needs one: a test demands it."""
IN_CATALOGUE: Final = (
    events.PoolCreated,
    events.PoolChanged,
    events.PoolDeleted,
    events.PoolRemoved,
    events.PoolReplacementStarted,
    events.PoolReplacementFinished,
    events.PoolReplacementStopped,
)
"""Events of pools that are in the catalogue, and not in the pool's own log."""


def explain(story: Story) -> Sequence[Line]:
    """A line for each event that is shown: the same for the same story."""
    known = Known(story.others)
    first = _scenes(story, known, story.first, ())
    last = _scenes(story, known, story.last, story.context)
    return [_line(scene) for scene in chain(first, last)]


def _scenes(
    story: Story, known: Known, shown: Sequence[Event], context: Sequence[Event]
) -> Iterator[Scene]:
    own = [*context, *shown]
    for at in range(len(context), len(own)):
        yield Scene(own[at], own[:at], story, known)


def _line(scene: Scene) -> Line:
    event = scene.event
    return Line(
        text=sentence(scene),
        event=event.event_id,
        position=_position(scene.story, event),
        type=event.type,
        actor=event.actor,
        worker_id=event.worker_id,
        incarnation=event.incarnation,
        cause=_cause(scene),
        ts=event.ts,
    )


def sentence(scene: Scene) -> str:
    """What an event says, in words."""
    return SENTENCES[type(scene.event.body)](scene, scene.event.body)


def _cause(scene: Scene) -> Cause | None:
    if not scene.event.causation_id:
        return None
    event = scene.cause()
    if event is None:
        return Cause(event=scene.event.causation_id)
    earlier = scene.before(event.subject)
    if event.subject == scene.event.subject:
        earlier = scene.earlier
    earlier = [e for e in earlier if e.seq < event.seq]
    return Cause(
        event=event.event_id,
        position=_position(scene.story, event),
        type=event.type,
        text=sentence(Scene(event, earlier, scene.story, scene.known)),
        ts=event.ts,
    )


def _position(story: Story, event: Event) -> str:
    log = CATALOGUE if isinstance(event.body, IN_CATALOGUE) else story.pool
    return f"{log}:{event.seq}"
