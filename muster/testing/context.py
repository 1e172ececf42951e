"""A context that records what an agent does with it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import structlog

from workers.api.agent import Context


class RecordingContext(Context):
    """A context that records what the agent does with it."""

    logs: list[dict[str, Any]]
    """Lines of `context.logger`: `level`, `event`, and the fields that were given."""
    touches: int
    """How often the agent called `touch`."""
    activity: list[str]
    """`idle` and `busy`, as it entered and left `idle()`."""

    @classmethod
    def of(cls, context: Context) -> Self:
        """The same context, as one that records."""
        recording = cls.__new__(cls)
        vars(recording).update(vars(context), logs=[], touches=0, activity=[])
        recording.logger = structlog.wrap_logger(
            None,
            processors=[structlog.processors.format_exc_info, recording._record],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        )
        return recording

    def _record(self, _: object, method: str, event: Mapping[str, Any]) -> Any:
        self.logs.append({"level": "error" if method == "exception" else method, **event})
        raise structlog.DropEvent

    def touch(self) -> None:
        self.touches += 1
        super().touch()

    @asynccontextmanager
    async def idle(self) -> AsyncIterator[None]:
        async with super().idle():
            self.activity.append("idle")
            yield
        self.activity.append("busy")
