"""A refusal says what is expected in words, never by a pattern."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from multidict import MultiDict

from eventstore.language.agents import Status
from eventstore.language.pool_config import PoolConfig
from gateway.wire import decoding, requests
from gateway.wire.problems import Problem


def refused(query: dict[str, str], shape: Any = requests.AgentQuery) -> str:
    request: Any = SimpleNamespace(query=MultiDict(query))
    with pytest.raises(Problem) as caught:
        decoding.read_query(request, shape)
    return str(caught.value)


@pytest.mark.parametrize("query", ["bogus", "running,bogus"])
def test_values_that_are_known_are_listed(query: str) -> None:
    said = refused({"status": query})
    assert said.endswith("'bogus'; expected " + ", ".join(Status))


@pytest.mark.parametrize(
    ("query", "shape", "words"),
    [
        ({"pool_name": "A b"}, requests.AgentQuery, "lower-case letters"),
        ({"label": "team"}, requests.AgentQuery, "with a colon between"),
        ({"process_id": "w1"}, requests.AgentQuery, "a UUID in lower case"),
        ({"type": "Agent"}, requests.EventQuery, "one of agent.requested, "),
    ],
)
def test_a_text_of_another_form_is_refused_with_the_expected_form(
    query: dict[str, str], shape: Any, words: str
) -> None:
    said = refused(query, shape)
    assert words in said
    assert "regex" not in said


def test_an_invalid_parked_id_is_refused_with_the_source_of_ids() -> None:
    shape: Any = requests.ParkedId
    with pytest.raises(Problem) as caught:
        decoding.convert("x", shape, strict=True, prefix="parked_id")
    assert str(caught.value).startswith("parked_id: Expected an id from the list of what is parked")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"preset": "lazy"}, "config.preset: Expected reactive or proactive"),
        ({"buffer": "10 %"}, "config.buffer: Expected a number of slots, or a share of the load"),
        ({"down": {"window": 3}}, "config.down.window: no field `window`; did you mean"),
        ({"shadow": ["q.toml"]}, "config.shadow: Expected `object | null`, got `array`"),
        ({"shadow": {"q": {"presett": 1}}}, "config: shadow q: Object contains unknown field `pre"),
        (
            {"schedules": [{"corn": "* * * * *"}]},
            "config.schedules[0].corn: no field `corn`; did you",
        ),
    ],
)
def test_a_setting_of_scaling_is_refused_with_what_is_right(config: Any, said: str) -> None:
    with pytest.raises(Problem) as caught:
        decoding.pool_config(config, PoolConfig())
    assert str(caught.value).startswith(said)


def test_every_pattern_of_a_request_has_a_description() -> None:
    shapes = [one for one in vars(requests).values() if _is_request(one)]
    schema = msgspec.json.schema_components(shapes, schema_hook=lambda _: {"description": "any"})
    patterns = {one["pattern"] for one in _objects(schema) if "pattern" in one}
    assert patterns <= requests.PATTERN_DESCRIPTIONS.keys()


def _is_request(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, requests.Request)


def _objects(value: Any) -> list[dict[str, Any]]:
    below = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, list | tuple)
        else ()
    )
    own = [value] if isinstance(value, dict) else []
    return own + [found for one in below for found in _objects(one)]
