"""Tokens are folded from their events; two secrets of one are valid at once, and no more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language import catalogue, tokens
from eventstore.language.catalogue import Catalogue, decode_snapshot, encode_snapshot
from eventstore.language.events import Event, TokenCreated, TokenRevoked
from eventstore.language.tokens import Token, rotation, subject_of

CREATED = TokenCreated(digest="d0", scopes=("read", "spawn"), pools=("a",), expires_ms=5000)


def fold(*bodies: Any, ts: int = 1000) -> Catalogue:
    state = Catalogue()
    for seq, body in enumerate(bodies, 1):
        event = Event(body, f"e{seq}", subject_of("ci"), actor="root", seq=seq, ts=ts)
        state = catalogue.evolve(state, event)
    return state


def token_of(state: Catalogue) -> Token:
    return state.tokens[subject_of("ci")]


def test_a_token_is_what_its_creation_says() -> None:
    found = token_of(fold(CREATED))
    assert (found.name, found.scopes, found.pools, found.projects, found.actor) == (
        "ci", ("read", "spawn"), ("a",), None, "root",
    )  # fmt: skip
    assert found.limited
    assert [(s.digest, s.created_ms, s.expires_ms) for s in found.secrets] == [("d0", 1000, 5000)]


def test_a_revoked_token_leaves_nothing_and_its_name_can_be_used_again() -> None:
    state = fold(CREATED, TokenRevoked())
    assert (state.tokens, state.version_of(subject_of("ci"))) == ({}, 0)
    again = fold(CREATED, TokenRevoked(), replace(CREATED, digest="d1"))
    assert (token_of(again).version, token_of(again).secrets[0].digest) == (1, "d1")


def test_an_event_of_an_unknown_token_does_not_fit() -> None:
    body = rotation(token_of(fold(CREATED)), "d1", 1000, overlap_ms=0, valid_ms=None)
    with pytest.raises(ValueError, match="does not exist"):
        fold(body)
    with pytest.raises(KeyError):
        fold(TokenRevoked())


def test_a_token_has_a_version_of_its_own_whatever_pools_and_hosts_are_called() -> None:
    state = fold(CREATED)
    assert (state.version_of(subject_of("ci")), state.version_of("ci")) == (1, 0)


def test_a_snapshot_has_the_tokens_and_one_of_an_earlier_version_has_none() -> None:
    state = fold(CREATED)
    assert decode_snapshot(encode_snapshot(state)) == state
    earlier = encode_snapshot(Catalogue()).replace(b'"tokens":{},', b"")
    assert b"tokens" not in earlier
    assert decode_snapshot(earlier).tokens == {}


TIMES = st.integers(0, 100)


@given(
    rotations=st.lists(st.tuples(TIMES, TIMES, st.none() | st.integers(1, 100)), max_size=6),
    expires=st.sampled_from([0, 50]),
    at=st.integers(0, 400),
)
def test_two_secrets_at_most_are_valid_at_once_and_the_newest_is_one_of_them(
    rotations: list[tuple[int, int, int | None]], expires: int, at: int
) -> None:
    token = token_of(fold(replace(CREATED, expires_ms=expires), ts=0))
    now = 0
    for number, (pause, overlap, valid) in enumerate(rotations, 1):
        now += pause
        body = rotation(token, f"d{number}", now, overlap_ms=overlap, valid_ms=valid)
        event = Event(body, f"e{number}", subject_of("ci"), ts=now)
        before, token = token.secrets[0], tokens.evolve(token, event)
        assert token.secrets[0].digest == f"d{number}"
        assert token.secrets[0].valid(now)
        assert token.secrets[1].digest == before.digest
        assert token.secrets[1].valid(now) <= before.valid(now)
        assert not token.secrets[1].valid(now + overlap + 1)
    assert sum(secret.valid(at) for secret in token.secrets) <= 2


def test_a_new_secret_is_valid_as_long_as_the_one_before_was_to_be() -> None:
    token = token_of(fold(CREATED))
    assert rotation(token, "d", 9000, overlap_ms=0, valid_ms=None).expires_ms == 13_000
    assert rotation(token, "d", 9000, overlap_ms=0, valid_ms=7).expires_ms == 9007
    forever = token_of(fold(replace(CREATED, expires_ms=0)))
    assert rotation(forever, "d", 9000, overlap_ms=0, valid_ms=None).expires_ms == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"scopes": ("read", "spawn", "operate")}, False),
        ({"pools": ("a",)}, False),
        ({"projects": ("x",)}, False),
        ({"expires_ms": 2000}, False),
    ],
)
def test_who_can_administer_has_the_scope_without_limits_and_now(
    changes: dict[str, Any], expected: bool
) -> None:
    admin = TokenCreated(digest="d0", scopes=("admin",))
    assert tokens.administered([token_of(fold(replace(admin, **changes)))], 3000) is expected
