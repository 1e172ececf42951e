"""Which bodies are the same request."""

import json

import msgspec

from gateway.wire.idempotency import canonical_form, digest_of

SENT = {"pool_name": "p", "heartbeat_interval": 30, "input": {"a": [1, {"b": 2.5, "ä": None}]}}


def test_the_same_json_is_the_same_request_however_it_is_written() -> None:
    reordered = dict(reversed(SENT.items()))
    for text in (
        json.dumps(reordered, indent=2),
        json.dumps(SENT, ensure_ascii=False),
        json.dumps(SENT).replace("30", "3e1"),
        json.dumps(SENT).replace("[1,", "[1.0,"),
    ):
        assert digest(text) == digest(json.dumps(SENT)), text


def test_other_json_is_another_request() -> None:
    """What it leaves to the defaults of the moment is not what it says."""
    bodies = [
        SENT,
        SENT | {"max_idle_time": 300.0},
        SENT | {"max_idle_time": None},
        SENT | {"heartbeat_interval": 30.5},
        SENT | {"input": {"a": [{"b": 2.5, "ä": None}, 1]}},
        SENT | {"input": {"a": [True, {"b": 2.5, "ä": None}]}},
        SENT | {"input": {"a": ["1", {"b": 2.5, "ä": None}]}},
        SENT | {"input": {"a": [2**53, {}]}},
        SENT | {"input": {"a": [2**53 + 1, {}]}},
    ]
    assert len({digest(json.dumps(body)) for body in bodies}) == len(bodies)


def digest(text: str) -> str:
    return digest_of(canonical_form(msgspec.json.decode(text)))
