"""What an agent's code raised, as it is recorded in an event.

Type, message and traceback, trimmed. An exception group is recorded by its first inner exception.
Frames of Muster itself are left out, so that a user sees their own code. Text that UTF-8 cannot
encode is escaped: the outcome must be writable whatever was raised.

An exception is an object of an agent: each of its methods and attributes may raise anything, grow
without end, or lie. So what can be is read from where Python itself stores it, each part by itself
within bounds, and a part that cannot be read is said to be unreadable.
"""

import os
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from eventstore.language.events import Error
from workers.api.agent import Unavailable

NAME_MAX: Final = 200
MESSAGE_MAX: Final = 2_000
TRACEBACK_MAX: Final = 8_192
FRAMES_MAX: Final = 20
CAUSES_MAX: Final = 5
"""Of a chain of exceptions, the last ones."""
NOTES_MAX: Final = 10
LEAVES_MAX: Final = 1_000
"""Of an exception group; more are not counted."""

RETRY_AFTER_MAX_SECONDS: Final = 1e9
"""Infinity is so much; the policy bounds it to less."""

OWN_FOLDER: Final = str(Path(__file__).resolve().parents[1]) + os.sep
"""The folder of `workers`: its frames are left out of what an agent's author reads."""

LAST: Final = slice(-TRACEBACK_MAX, None)
"""The part of a traceback that is kept."""
_CAUSED: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_HANDLED: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


def describe(error: BaseException) -> Error:
    """An exception as it is recorded in an event. Raises nothing."""
    leaves = _leaves(error)
    inner, count = leaves[0], len(leaves)
    message = _message(inner)
    if count > 1:
        message = f"{message} (and {count - 1}{'+' * (count == LEAVES_MAX)} more)"
    return Error(
        type=_name(inner),
        message=message,
        traceback=readable(lambda: _trace(error, inner, count), "traceback", LAST),
        retry_after_ms=_retry_after_ms(leaves),
    )


def timeout_error(during: str, seconds: float, stack: str = "") -> Error:
    """The error of code that hung; `stack`: where."""
    message = f"{during}() did not return within {seconds:g} s"
    return Error(type="TimeoutError", message=message, traceback=stack)


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group that are no groups, in order; of no group, itself."""
    leaves: list[BaseException] = []
    remaining = [error]
    while remaining and len(leaves) < LEAVES_MAX:
        inner = remaining.pop()
        if issubclass(type(inner), BaseExceptionGroup):
            remaining.extend(reversed(_stored(BaseExceptionGroup, inner, "exceptions")))
        else:
            leaves.append(inner)
    return leaves


def _retry_after_ms(leaves: Sequence[Any]) -> int | None:
    """The longest that any `Unavailable` says; None if one is another error."""
    if not all(issubclass(type(error), Unavailable) for error in leaves):
        return None
    try:
        seconds = max(float(error.retry_after) for error in leaves)
        return int(min(max(seconds, 0.0), RETRY_AFTER_MAX_SECONDS) * 1000)
    except BaseException:  # noqa: BLE001  as in `readable`
        return int(Unavailable.retry_after * 1000)


def _trace(error: BaseException, inner: BaseException, count: int) -> str:
    if inner is error:
        return _chain(error)
    return f"{_text(error)}\nThe first of its inner exceptions ({count}):\n\n{_chain(inner)}"


def _chain(error: BaseException) -> str:
    """An exception and those that it followed from, as Python shows them."""
    text = _text(error)
    for _ in range(CAUSES_MAX):
        cause = _stored(BaseException, error, "__cause__")
        header = _CAUSED
        if cause is None and not _stored(BaseException, error, "__suppress_context__"):
            cause, header = _stored(BaseException, error, "__context__"), _HANDLED
        if cause is None:
            break
        error, text = cause, f"{_text(cause)}{header}{text}"
    return text


def _text(error: BaseException) -> str:
    """One exception with its traceback and notes."""
    frames = deque(
        (
            (frame, line)
            for frame, line in traceback.walk_tb(_stored(BaseException, error, "__traceback__"))
            if not frame.f_code.co_filename.startswith(OWN_FOLDER)
        ),
        maxlen=FRAMES_MAX,
    )
    stack = "".join(traceback.StackSummary.extract(iter(frames)).format())
    line = f"{_name(error)}: {_message(error)}".removesuffix(": ")
    notes = readable(lambda: _notes(error), "notes", slice(MESSAGE_MAX))
    return f"Traceback (most recent call last):\n{stack}{line}\n{notes}"


def _name(error: BaseException) -> str:
    kind = type(error)
    name = readable(lambda: kind.__qualname__, "name", slice(NAME_MAX))
    module = readable(lambda: kind.__module__, "module", slice(NAME_MAX))
    return name if module == "builtins" else f"{module}.{name}"


def _message(error: BaseException) -> str:
    return readable(lambda: str(error), "message", slice(MESSAGE_MAX))


def _notes(error: BaseException) -> str:
    notes = getattr(error, "__notes__", ())
    return "".join(f"{note}\n" for note in notes[:NOTES_MAX]) if type(notes) is list else ""


def readable(function: Callable[[], str], what: str, part: slice) -> str:
    """Text that the user's code makes, trimmed. It may raise anything, or be no text."""
    try:
        text = str.__getitem__(function(), part)
        return text.encode("utf-8", "backslashreplace").decode()[part]
    except BaseException:  # noqa: BLE001  SystemExit too: it is the user's object
        return f"<{what} unreadable>"


def _stored(kind: type[BaseException], error: BaseException, name: str) -> Any:
    """An attribute as Python stores it, whatever the exception's class makes of its name."""
    return kind.__dict__[name].__get__(error)
