"""What a process is made of."""

from typing import Protocol


class Part(Protocol):
    """A long-lived part of a process. Stopping twice does no harm."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...
