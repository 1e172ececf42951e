"""A flood for one pool is carried out in turns, and holds up no other pool."""

import asyncio
import gc

from gateway.backend.turns import Turns
from tests.waiting import until


async def test_so_many_at_once_in_their_order_and_others_beside_them() -> None:
    turns, released = Turns(at_once=2), asyncio.Event()
    inside: list[int] = []

    async def submit(number: int, pool: str) -> None:
        async with turns.of(pool):
            inside.append(number)
            await released.wait()

    flood = [asyncio.create_task(submit(number, "p")) for number in range(5)]
    await until(lambda: len(inside) == 2)
    other = asyncio.create_task(submit(9, "q"))
    await until(lambda: 9 in inside)
    assert inside == [0, 1, 9]
    flood[2].cancel()  # its client left
    released.set()
    await asyncio.gather(other, *flood, return_exceptions=True)
    assert inside == [0, 1, 9, 3, 4]


async def test_a_pool_that_nobody_spawns_in_costs_nothing() -> None:
    turns = Turns()
    async with turns.of("p"):
        assert len(turns._used) == 1
    gc.collect()
    assert len(turns._used) == 0
