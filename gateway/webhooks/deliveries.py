"""One message to one webhook: when it is tried, and when no more. Pure."""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

PAUSES_SECONDS: Final = (5, 30, 120, 600, 1_800, 7_200, 21_600)
"""After each attempt that failed; after the last one it is a dead letter: about nine hours."""
PAUSE_MAX_SECONDS: Final = 21_600
JITTER: Final = 0.2
"""A pause is longer by up to this part of it, so that what failed together does not return so."""
GONE: Final = 410
ERROR_MAX: Final = 300


class Delivery(Struct, frozen=True, kw_only=True):
    """As it is stored. Times in ms since 1970."""

    webhook: str
    message_id: str
    """The id of the event: it is the same at each attempt, and at each webhook."""
    type: str
    alert_id: str
    body: str
    created_ms: int
    due_ms: int = 0
    attempts: int = 0
    error: str = ""
    """Of the last attempt."""

    @property
    def delivery_id(self) -> str:
        return f"{self.webhook}:{self.message_id}"


class Attempt(Struct, frozen=True, kw_only=True):
    """What came of one. `status` 0: no answer."""

    status: int = 0
    error: str = ""
    seconds: float = 0.0
    retry_after: float = 0.0
    """In seconds, where the answer asks for that."""

    @property
    def delivered(self) -> bool:
        return 200 <= self.status < 300


def after_failure(delivery: Delivery, attempt: Attempt, now_ms: int, random: float) -> Delivery:
    """What is to be tried next; `due_ms` 0: never again. `random`: from 0 to 1."""
    attempts = delivery.attempts + 1
    failed = replace(delivery, attempts=attempts, error=attempt.error[:ERROR_MAX], due_ms=0)
    if attempt.status == GONE or attempts > len(PAUSES_SECONDS):
        return failed
    pause = max(PAUSES_SECONDS[attempts - 1], min(attempt.retry_after, PAUSE_MAX_SECONDS))
    return replace(failed, due_ms=now_ms + int(pause * (1 + JITTER * random) * 1000))


def decoded(stored: Iterable[bytes]) -> list[Delivery]:
    """Those that this version can read."""
    found = []
    for text in stored:
        try:
            found.append(msgspec.json.decode(text, type=Delivery))
        except msgspec.MsgspecError:
            continue
    return found
