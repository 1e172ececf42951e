"""How what an agent raised is described: within bounds, and whatever its object does."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from workers.runtime.errors import MESSAGE_MAX, NAME_MAX, TRACEBACK_MAX, describe


def raised(error: BaseException) -> BaseException:
    """The exception with the traceback of this file."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


def test_an_error_is_described_within_bounds():
    def deep(depth: int) -> None:
        if depth == 0:
            raise ValueError("x" * 10_000)
        deep(depth - 1)

    with pytest.raises(ValueError, match="x") as caught:
        deep(100)
    error = describe(caught.value)
    assert (error.type, error.message) == ("ValueError", "x" * MESSAGE_MAX)
    assert len(error.traceback) <= TRACEBACK_MAX
    assert "deep(depth - 1)" in error.traceback


def test_causes_and_notes_are_in_the_traceback():
    error = ValueError("outer")
    error.add_note("while it wrote")
    error.__cause__ = raised(OSError("inner"))
    trace = describe(raised(error)).traceback
    assert trace.index("OSError: inner") < trace.index("direct cause")
    assert trace.endswith("ValueError: outer\nwhile it wrote\n")
    assert trace.count("raise error") == 2


def raises(*_: Any) -> Any:
    raise SystemExit(3)


class Endless(Exception):
    """Each cause has a cause, made when it is asked for."""

    __cause__ = property(lambda self: Endless())
    __context__ = property(lambda self: Endless())


class Text(str):
    __slots__ = ()
    __getitem__ = encode = __format__ = __add__ = raises  # type: ignore[assignment]


class Named(type):
    __getattribute__ = raises


def named() -> BaseException:
    return Named("Odd", (Exception,), {})()


def noted(notes: object) -> BaseException:
    error = ValueError("v")
    error.__notes__ = notes  # type: ignore[assignment]
    return error


def hostile(**attributes: Any) -> Callable[[], BaseException]:
    return type("Hostile", (BaseException,), attributes)


METHODS = ("__str__", "__repr__", "__eq__", "__hash__", "__getattribute__", "__bool__")
ATTRIBUTES = ("__traceback__", "__cause__", "__context__", "__class__", "__notes__")
HOSTILE: dict[str, Callable[[], BaseException]] = {
    **{name: hostile(**{name: raises}) for name in METHODS},
    **{name: hostile(**{name: property(raises)}) for name in ATTRIBUTES},
    "number": hostile(__str__=lambda _: 7),
    "text": hostile(__str__=lambda _: Text("text")),
    "huge": hostile(__str__=lambda _: "x" * 10_000_000),
    "surrogate": hostile(__str__=lambda _: "\udcff"),
    "module": hostile(__module__=7),
    "endless": Endless,
    "type": named,
    "long name": type("x" * 1_000_000, (Exception,), {}),
    "notes": lambda: noted([Text("n"), 7, "x" * 10_000_000] * 1000),
    "no notes": lambda: noted(7),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_object_of_an_agent_prevents_its_description(name: str):
    error = describe(raised(HOSTILE[name]()))
    assert 0 < len(error.type) <= 2 * NAME_MAX + 1
    assert len(error.message) <= MESSAGE_MAX
    assert len(error.traceback) <= TRACEBACK_MAX
    assert "test_errors.py" in error.traceback
    (error.type + error.message + error.traceback).encode()


def test_a_message_that_cannot_be_read_is_said_to_be():
    error = describe(hostile(__str__=raises)())
    assert (error.type, error.message) == (f"{__name__}.Hostile", "<message unreadable>")


def test_a_long_chain_is_cut():
    error = last = ValueError("last")
    for number in range(100_000):
        error.__cause__ = error = ValueError(str(number))
    assert describe(last).traceback.count("direct cause") == 5


def test_a_chain_without_end_is_cut():
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert describe(one).traceback.count("direct cause") == 5


async def test_a_group_is_described_by_its_first_inner_error():
    async def fail(error: Exception) -> None:
        raise error

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(ValueError("first")))
            group.create_task(fail(ExceptionGroup("inner", [KeyError(1), KeyError(2)])))

    with pytest.raises(ExceptionGroup) as caught:
        await work()
    error = describe(caught.value)
    assert (error.type, error.message) == ("ValueError", "first (and 2 more)")
    assert "unhandled errors in a TaskGroup" in error.traceback
    assert error.traceback.endswith("ValueError: first\n")


def test_a_group_of_one_has_the_message_of_its_error():
    nested = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [SystemExit("enough")])])
    assert describe(nested).message == "enough"


@pytest.mark.parametrize("shape", ["deep", "wide", "dense"])
def test_a_group_of_any_shape_is_described(shape: str):
    group: ExceptionGroup[Exception] = ExceptionGroup(
        "g", [ValueError("v")] * (10_000 if shape == "wide" else 1)
    )
    for _ in range({"deep": 10_000, "wide": 1, "dense": 60}[shape]):
        group = ExceptionGroup("g", [group, group] if shape == "dense" else [group])
    error = describe(group)
    assert error.message == ("v" if shape == "deep" else "v (and 999+ more)")
    while shape == "deep" and sys.getrefcount(group):  # freed in steps: CPython recurses
        inner = group.exceptions[0]
        if not isinstance(inner, ExceptionGroup):
            break
        group = inner
