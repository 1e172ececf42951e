"""A state comes back from its hash; a hash is read whatever version wrote it, or refused."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.errors import Unreadable
from eventstore.language.agents import Agent
from eventstore.language.workers import Worker
from eventstore.steps.hashes import AGENT, VIEWS_ONLY, WORKER, HashCodec
from tests import later
from tests.hostile import NUMERALS, TEXTS
from tests.states import states


def without_views_only(state: Any) -> Any:
    fields = {field.name: field for field in msgspec.structs.fields(type(state))}
    gone = {name: fields[name] for name in VIEWS_ONLY & fields.keys()}
    return replace(
        state,
        **{
            name: {} if field.default is msgspec.NODEFAULT else field.default
            for name, field in gone.items()
        },
    )


@given(states(Agent))
def test_an_agent_comes_back_from_its_hash_in_this_version_and_in_later_ones(agent: Agent) -> None:
    """Agents live through an upgrade: what a hash lacks is read, and compared, as the default."""
    old = AGENT.to_hash(agent)
    assert AGENT.from_hash(agent.agent_id, old) == without_views_only(agent)
    found = later.HASH.from_hash("a", old)
    defaults = {f.name: f.default for f in msgspec.structs.fields(later.ShortAgent)}
    assert {name: getattr(found, name) for name in later.ADDED} == {
        n: defaults[n] for n in later.ADDED
    }
    assert later.HASH.completed(old) == later.HASH.to_hash(found)
    stored = old | {"correlation_id": "", "status": "?"}  # as before causes were
    assert AGENT.expected(agent, stored) == old | {"correlation_id": ""}


@given(states(Agent), states(Agent))
def test_the_fields_that_differ_turn_one_hash_into_the_other(old: Agent, new: Agent) -> None:
    flat = AGENT.to_flat(new, old)
    changed = dict(zip(flat[::2], flat[1::2], strict=True))
    before, after = AGENT.to_hash(old), AGENT.to_hash(new)
    assert before | changed == after
    assert changed.keys() >= {name for name in after if before[name] != after[name]}
    assert AGENT.to_flat(new, new) == []


@given(states(Agent))
def test_a_hash_without_what_is_its_default_is_read_as_the_complete_one(agent: Agent) -> None:
    """It has all that an older version expects, and nothing is left out of a hash that exists."""
    flat = AGENT.to_flat(agent, absent=True)
    stored = dict(zip(flat[::2], flat[1::2], strict=True))
    assert stored.keys() >= set(AGENT.first)
    assert AGENT.completed(stored) == AGENT.to_hash(agent)
    assert AGENT.from_hash(agent.agent_id, stored) == without_views_only(agent)
    flat = AGENT.to_flat(agent)
    assert dict(zip(flat[::2], flat[1::2], strict=True)) == AGENT.to_hash(agent)


@given(states(Worker))
def test_a_worker_comes_back_from_its_hash(worker: Worker) -> None:
    assert WORKER.from_hash(worker.worker_id, WORKER.to_hash(worker)) == without_views_only(worker)


@given(states(later.ShortAgent))
def test_an_agent_with_more_fields_comes_back_with_them_and_lua_claims_it(
    agent: later.ShortAgent,
) -> None:
    """An older version ignores fields that it does not know."""
    fields, table = later.HASH.to_hash(agent), lua_table(later.HASH)
    assert list(fields)[-len(later.ADDED) :] == list(later.ADDED)
    assert later.HASH.from_hash(agent.agent_id, fields) == without_views_only(agent)
    assert AGENT.to_hash(AGENT.from_hash("a", fields)) == AGENT.to_hash(agent)
    assert list(fields) == list(table)
    for name, (patterns, may_lack) in table.items():
        assert any(re.search(pattern, fields[name]) for pattern in patterns), (name, fields[name])
        assert may_lack is (name not in AGENT.first)


@pytest.mark.parametrize("name", AGENT.first)
def test_a_hash_that_lacks_one_of_the_first_fields_is_refused(name: str) -> None:
    fields = {other: text for other, text in later.USUAL_HASH.items() if other != name}
    with pytest.raises(Unreadable, match=f"has no field {name}"):
        AGENT.from_hash("a", fields)


def test_a_type_that_a_hash_cannot_hold_is_refused_when_the_codec_is_made() -> None:
    class Wrong(Agent, frozen=True, kw_only=True):
        nested: frozenset[str] = frozenset()

    with pytest.raises(TypeError, match="VIEWS_ONLY"):
        HashCodec("agent", Wrong, key="agent_id", first=" ".join(AGENT.first))


# ---- what Lua checks before it books -----------------------------------------------------------


def lua_table(codec: HashCodec[Any]) -> dict[str, tuple[list[str], bool]]:
    """Of each field the patterns, as Python has them, and whether the hash may lack it."""
    found = {}
    lines = codec.lua_check().splitlines()[2:-1]
    for compare, refuse, keep in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        usual = re.findall(r"'([^']*)'", compare)
        *patterns, name = re.findall(r"'([^']*)'", refuse)
        assert all(any(re.search(_translated(it), one) for it in patterns) for one in usual)
        assert f"text = hash.{name} if " in compare
        assert f"= '{name}', text," in keep
        may_lack = compare.endswith(" and text then")
        found[name] = ([_translated(pattern) for pattern in patterns], may_lack)
    return found


def _translated(pattern: str) -> str:
    return re.sub(r"%(.)", lambda m: "[0-9]" if m[1] == "d" else re.escape(m[1]), pattern)


@given(st.data())
def test_what_lua_claims_python_can_read(data: st.DataObject) -> None:
    name, (patterns, _) = data.draw(st.sampled_from(list(lua_table(later.HASH).items())))
    like_it = st.one_of(*(st.from_regex(re.compile(p, re.ASCII)) for p in patterns))
    text = data.draw(st.one_of(like_it, TEXTS, NUMERALS))
    matches = any(re.search(p.replace("$", r"\Z"), text, re.ASCII) for p in patterns)
    if matches and len(text) < 4_300:  # digits that Python reads; the claimer parks what has more
        fields = later.HASH.to_hash(
            later.ShortAgent(agent_id="a", pool_name="p", role_type="r", project_id="x")
        )
        later.HASH.from_hash("a", {**fields, name: text})
