"""What dashboards are sent: the whole picture once, then what changed, encoded once for all."""

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.following.live_feed import Client, LiveFeed, difference

SECTIONS = st.dictionaries(
    st.sampled_from("ab"),
    st.dictionaries(st.sampled_from("xyz"), st.one_of(st.integers(), st.tuples(st.integers()))),
)


class Connection:
    """A writer and its transport; it reads nothing while `stuck`."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.stuck = self.gone = False
        self.valid = True

    async def write(self, chunk: bytes, *, drain: bool) -> None:
        assert not drain, "it would wait for one client"
        if self.gone:
            raise ConnectionResetError
        self.sent.append(chunk)

    def get_write_buffer_size(self) -> int:
        return 1 if self.stuck else 0

    def client(self) -> Client:
        return Client(cast("Any", self), cast("Any", self), lambda: self.valid)

    @property
    def messages(self) -> list[tuple[str, Any]]:
        texts = [chunk.decode().split("\n") for chunk in self.sent]
        return [(text[0].removeprefix("event: "), json.loads(text[2][6:])) for text in texts]


def applied(sections: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """As the page does it."""
    result = {name: dict(entries) for name, entries in sections.items()}
    for name, entries in changes.items():
        result.setdefault(name, {}).update(entries)
        result[name] = {key: one for key, one in result[name].items() if one is not None}
    return result


def filled(sections: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entries for name, entries in sections.items() if entries}


@given(SECTIONS, SECTIONS)
def test_what_changed_makes_the_old_picture_the_new_one(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert filled(applied(old, difference(old, new))) == filled(new)
    assert difference(new, new) == {}


async def test_all_of_an_audience_are_sent_the_same_bytes() -> None:
    feed, first, second, other = LiveFeed(), Connection(), Connection(), Connection()
    with (
        feed.subscribe(None, first.client()),
        feed.subscribe(None, second.client()),
        feed.subscribe(("p",), other.client()),
    ):
        await feed.publish(None, {"pools": {"p": 1, "q": 2}}, 10)
        await feed.publish(None, {"pools": {"p": 3}}, 11)
        await feed.publish(None, {"pools": {"p": 3}}, 12)
        assert first.messages == [
            ("picture", {"sections": {"pools": {"p": 1, "q": 2}}, "proof": 10}),
            ("patch", {"sections": {"pools": {"p": 3, "q": None}}, "proof": 11}),
            ("patch", {"proof": 12}),
        ]
        assert [a is b for a, b in zip(first.sent, second.sent, strict=True)] == [True] * 3
        assert other.sent == []
    assert feed.audiences == []


async def test_who_reads_slowly_gets_the_whole_picture_of_later() -> None:
    feed, slow = LiveFeed(), Connection()
    with feed.subscribe(None, slow.client()):
        await feed.publish(None, {"pools": {"p": 1}}, 1)
        slow.stuck = True
        for number in range(2, 100):
            await feed.publish(None, {"pools": {"p": number}}, number)
        assert len(slow.sent) == 1
        slow.stuck = False
        await feed.publish(None, {"pools": {"p": 100}}, 100)
        assert slow.messages[1:] == [("picture", {"sections": {"pools": {"p": 100}}, "proof": 100})]


async def test_who_comes_between_two_pictures_gets_the_last_one_at_once() -> None:
    feed, first, second, other = LiveFeed(), Connection(), Connection(), Connection()
    with feed.subscribe(None, first.client()):
        await feed.publish(None, {"pools": {"p": 1}}, 1)
        with feed.subscribe(None, second.client()):
            assert await feed.welcome()
            assert [kind for kind, _ in second.messages] == ["picture"]
            await feed.publish(None, {"pools": {"p": 2}}, 2)
            assert second.messages[-1] == first.messages[-1]
        with feed.subscribe(("p",), other.client()):
            assert not await feed.welcome(), "there is none for this audience yet"


@pytest.mark.parametrize("why", ["gone", "revoked", "stopping"])
async def test_a_connection_that_is_over_is_closed(why: str) -> None:
    feed, connection = LiveFeed(), Connection()
    client = connection.client()
    with feed.subscribe(None, client):
        if why == "stopping":
            feed.close()
        else:
            connection.gone, connection.valid = why == "gone", why != "revoked"
            await feed.publish(None, {}, 1)
        assert client.closed.is_set()
        assert connection.sent == []
