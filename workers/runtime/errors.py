"""What an agent's code raised, as it is recorded in an event.

Type, message and traceback, trimmed. Frames of Muster itself are left out at the top, so that a
user sees their own code. Text that UTF-8 cannot encode is escaped: the outcome must be writable
whatever was raised.
"""

import os
import traceback
from pathlib import Path
from typing import Any, Final

from eventstore.language.events import Error
from workers.api.agent import Unavailable

MESSAGE_MAX: Final = 2_000
TRACEBACK_MAX: Final = 8_192
FRAMES_MAX: Final = 20

RETRY_AFTER_MAX_SECONDS: Final = 1e9
"""Infinity is so much; the policy bounds it to less."""

OWN_FOLDER: Final = str(Path(__file__).resolve().parents[1]) + os.sep
"""The folder of `workers`: its frames are left out of what an agent's author reads."""


def describe(error: BaseException) -> Error:
    """An exception as it is recorded in an event."""
    return Error(
        type=_name(type(error)),
        message=_clean(_message(error))[:MESSAGE_MAX],
        traceback=_clean(_traceback(error))[-TRACEBACK_MAX:],
        retry_after_ms=_retry_after_ms(error),
    )


def _retry_after_ms(error: BaseException) -> int | None:
    """What `Unavailable` says, or the longest of a group of nothing else; None: another error."""
    kind = type(error)
    if issubclass(kind, BaseExceptionGroup):
        inner = BaseExceptionGroup.exceptions.__get__(error)
        waits = [_retry_after_ms(one) for one in inner]
        known = [wait for wait in waits if wait is not None]
        return max(known) if len(known) == len(waits) else None
    if not issubclass(kind, Unavailable):
        return None
    unavailable: Any = error
    try:
        seconds = min(max(float(unavailable.retry_after), 0.0), RETRY_AFTER_MAX_SECONDS)
        return int(seconds * 1000)
    except Exception:  # noqa: BLE001  as in `_message`
        return int(Unavailable.retry_after * 1000)


def timeout_error(during: str, seconds: float, stack: str = "") -> Error:
    """The error of code that hung; `stack`: where."""
    message = f"{during}() did not return within {seconds:g} s"
    return Error(type="TimeoutError", message=message, traceback=_clean(stack)[-TRACEBACK_MAX:])


def _name(kind: type[BaseException]) -> str:
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001  a user's __str__ may raise anything
        return f"<its message could not be made: {_name(type(second))}>"


def _traceback(error: BaseException) -> str:
    try:
        frames = [
            (frame, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if not frame.f_code.co_filename.startswith(OWN_FOLDER)
        ]
        summary = traceback.TracebackException.from_exception(error, limit=-FRAMES_MAX)
        summary.stack = traceback.StackSummary.extract(iter(frames[-FRAMES_MAX:]))
        return "".join(summary.format())
    except Exception:  # noqa: BLE001  as above: formatting calls the user's code
        return ""


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
