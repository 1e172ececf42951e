"""Calls of scripts that a worker makes: recognised, and their replies lost."""

from collections.abc import Callable, Sequence

from eventstore.log.script_runner import Script
from workers.process.worker import Worker


def sends(event_type: str, arguments: Sequence[object]) -> bool:
    """Whether a call of a script commits an event of this type."""
    return any(isinstance(a, bytes) and event_type.encode() in a for a in arguments)


def is_claim(source: Script, _: Sequence[object]) -> bool:
    """Whether a call of a script claims agents."""
    return "XREADGROUP" in source.text


def lose_replies(
    worker: Worker, chosen: Callable[[Script, Sequence[object]], bool], count: int
) -> list[object]:
    """Lose the first replies to the chosen calls; returns those that are lost so far."""
    evaluate = worker._log._evaluate
    lost: list[object] = []

    async def lose(source, keys, arguments):
        reply = await evaluate(source, keys, arguments)
        if chosen(source, arguments) and len(lost) < count:
            lost.append(reply)
            raise ConnectionError("the reply never came")
        return reply

    worker._log._evaluate = lose  # type: ignore[method-assign]
    return lost
