"""A cursor's text says exactly where a client is, however its logs were advanced."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.following.cursor import COMPRESS_CURSOR_BYTES, Cursor

POOLS = ["", *(f"pool-{number}" for number in range(400))]
FEW, MANY = POOLS[:3], POOLS
STEPS = st.lists(st.integers(0, 2), max_size=30)


@given(steps=STEPS, pools=st.sampled_from([FEW, MANY]))
def test_its_text_names_every_position(steps: Sequence[int], pools: Sequence[str]) -> None:
    cursor = Cursor(dict.fromkeys(pools, "0-0"))
    expected = dict(cursor.positions)
    for number, at in enumerate(steps):
        cursor.advance(pools[at], f"{number}-1")
        expected[pools[at]] = f"{number}-1"
        assert Cursor.parse(str(cursor)).positions == expected
        assert cursor.positions == expected


def test_a_run_of_events_of_one_log_does_not_go_through_the_others() -> None:
    """They are put into text once, and compressed once."""
    went = []

    class Counting(dict[str, str]):
        def items(self):
            went.append(1)
            return super().items()

    cursor = Cursor(Counting(dict.fromkeys(MANY, "1700000000000-0")))
    texts = []
    for number in range(100):
        cursor.advance("pool-7", f"1700000000001-{number}")
        texts.append(str(cursor))
    assert len(went) == 1
    assert len(set(texts)) == 100
    assert max(map(len, texts)) < COMPRESS_CURSOR_BYTES
