"""`muster token`: what it sends, and that only the secret is printed for scripts."""

import json
from typing import Any

import pytest

from tests.unit.muster.gateway_stub import agent

TOKENS = "/api/v1/tokens"
CI: dict[str, Any] = {
    "name": "ci",
    "scopes": ["read", "spawn"],
    "pools": ["a", "b"],
    "projects": None,
    "secrets": [{"digest": "abc", "created_at": 1, "expires_at": None}],
    "actor": "root",
    "created_at": 1,
    "changed_at": 1,
}
NEW = {**CI, "token": "muster_secret"}


def test_a_token_is_created_and_only_its_secret_printed(gateway, muster):
    gateway.answers[f"POST {TOKENS}"] = (201, NEW)
    words = "new ci --may read,spawn --pools a,b --projects x --expires 90d"
    code, out, err = muster("token", *words.split())
    assert (code, out) == (0, "muster_secret\n")
    assert "may read, spawn in a, b" in err
    assert gateway.requests[0].body == {
        "name": "ci",
        "scopes": ["read", "spawn"],
        "pools": ["a", "b"],
        "projects": ["x"],
        "expires_in_seconds": 90 * 86_400.0,
    }
    assert json.loads(muster("token", "new", "ci", "--may", "read", "--json")[1]) == NEW
    assert gateway.requests[1].body == {"name": "ci", "scopes": ["read"]}


def test_tokens_are_listed_with_what_they_may(gateway, muster):
    other = {**CI, "name": "old", "pools": None, "secrets": []}
    gateway.answers[f"GET {TOKENS}"] = {"tokens": [CI, other]}
    for words in ((), ("list",)):
        code, out, _ = muster("token", *words)
        rows = [line.split() for line in out.splitlines()[1:]]
        assert code == 0
        assert rows[0][:6] == ["ci", "read,", "spawn", "a,", "b", "all"]
        assert rows[1][:6] == ["old", "read,", "spawn", "all", "all", "expired"]
    assert "muster_secret" not in out


def test_a_token_gets_another_secret_or_is_revoked(gateway, muster):
    gateway.answers |= {f"POST {TOKENS}/ci/rotate": NEW, f"DELETE {TOKENS}/ci": CI}
    assert muster("token", "rotate", "ci", "--overlap", "1h")[:2] == (0, "muster_secret\n")
    assert muster("token", "revoke", "ci")[:2] == (0, "token ci is revoked\n")
    rotated, _ = gateway.requests
    assert rotated.body == {"overlap_seconds": 3600.0}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("new", "ci", "--may", ","), "--may: expected names"),
        (("new", "ci", "--may", "read", "--pools", ""), "--pools: expected names"),
        (("new", "ci", "--may", "read", "--expires", "soon"), "--expires: 'soon' is not a time"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_asked(gateway, muster, words, expected):
    code, _, err = muster("token", *words)
    assert code == 2
    assert expected in err
    assert gateway.requests == []


def test_a_token_that_may_not_read_about_pools_may_spawn_there(gateway, muster, monkeypatch):
    refusal = {"type": "pool-not-found", "status": 404, "title": "t", "detail": "no pool `night`"}
    gateway.answers["GET /pools/night"] = (404, refusal)
    gateway.answers["POST /spawn"] = agent()
    assert muster("spawn", "night", "--project", "x")[0] == 1
    monkeypatch.setenv("MUSTER_API_TOKEN", "muster_secret")
    assert muster("spawn", "night", "--project", "x")[0] == 0
    assert gateway.requests[-1].body == {"pool_name": "night", "project_id": "x"}
