"""Where a task hangs is seen through all that it awaits, and where a thread is."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from workers.runtime.stacks import task_stack, thread_stack


async def hang() -> None:
    await asyncio.Event().wait()


async def ticks() -> AsyncIterator[int]:
    await hang()
    yield 1


class Awaitable:
    def __await__(self):
        return hang().__await__()


async def in_a_task() -> None:
    async with asyncio.timeout(60):
        await asyncio.create_task(hang())


async def in_a_generator() -> None:
    async for _ in ticks():
        pass


async def gathered() -> None:
    await asyncio.gather(asyncio.sleep(0), hang())


async def in_an_object() -> None:
    await Awaitable()


@pytest.mark.parametrize("function", [hang, in_a_task, in_a_generator, gathered, in_an_object])
async def test_the_stack_of_a_task_reaches_to_where_it_waits(function):
    task = asyncio.create_task(function())
    for _ in range(5):
        await asyncio.sleep(0)
    stack = task_stack(task)
    assert f"in {function.__name__}\n" in stack
    assert "in hang\n    await asyncio.Event().wait()\n" in stack
    task.cancel()


async def test_a_task_that_has_ended_has_no_stack():
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    assert task_stack(task) == ""


def test_the_stack_of_a_thread():
    go, arrived = threading.Event(), threading.Event()

    def park() -> None:
        arrived.set()
        go.wait()

    thread = threading.Thread(target=park)
    thread.start()
    arrived.wait()
    assert thread.ident is not None
    assert "in park\n    go.wait()\n" in thread_stack(thread.ident)
    go.set()
    thread.join()
    assert thread_stack(thread.ident) == ""
