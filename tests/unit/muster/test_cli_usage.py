"""`muster usage`: tables, CSV and JSON, and spans as people write them."""

import csv
import io
import json
from typing import Any

import pytest

TOTAL = {
    "agents": 3, "requested": 3, "ended": 1, "failures": 1, "losses": 0, "restarts": 1, "claims": 4,
    "cold_starts": 1, "agent_seconds": 90.5, "waiting_seconds": 1.25, "slot_seconds": 1234.567,
    "worker_seconds": 100.0, "capacity_seconds": 1000.0,
}  # fmt: skip
SPAN = {
    "since": 1_793_491_200_000, "since_time": "2026-11-01T00:00:00Z",
    "until": 1_796_083_200_000, "until_time": "2026-12-01T00:00:00Z",
}  # fmt: skip


def row(**names: str) -> dict[str, Any]:
    every = dict.fromkeys(("pool_name", "role_type", "project_id", "label"))
    return {**every, **TOTAL, **SPAN, "worker_seconds": None, **names}


@pytest.fixture
def answered(gateway):
    rows = [
        row(pool_name="night", project_id="apollo"),
        row(pool_name="night", project_id="gemini"),
    ]
    gateway.answers["GET /usage"] = {**SPAN, "rows": rows, "total": TOTAL, "left_out": 0}
    return gateway


def test_usage_is_a_table_with_its_sum(answered, muster):
    code, out, err = muster("usage")
    heading, first, _, total = (line.split() for line in out.splitlines())
    assert (code, heading[:3]) == (0, ["POOL", "PROJECT", "SLOT-S"])
    assert first[:5] == ["night", "apollo", "1,234.6", "-", "1.2"]
    assert (total[0], total[2:4]) == ("total", ["1,234.6", "100.0"])
    assert "2026-11-01 00:00 to 2026-12-01 00:00, UTC" in err
    assert answered.requests[0].query == {"by": "pool,project"}


def test_usage_is_written_for_programs(answered, muster):
    rows = list(csv.DictReader(io.StringIO(muster("usage", "-o", "csv")[1])))
    assert [one["project_id"] for one in rows] == ["apollo", "gemini"]
    assert (rows[0]["slot_seconds"], rows[0]["worker_seconds"]) == ("1234.567", "")
    assert rows[0]["since"] == "2026-11-01T00:00:00+00:00"
    assert json.loads(muster("usage", "--json")[1])["total"] == TOTAL


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (("--month", "2026-11"),
         {"since": "2026-11-01T00:00:00+00:00", "until": "2026-12-01T00:00:00+00:00"}),
        (("--since", "2026-12"), {"since": "2026-12-01T00:00:00+00:00"}),
        (("--since", "2026-11-24"), {"since": "1795478400000"}),
        (("--until", "2026-11-24T14:03+02:00"), {"until": "1795521780000"}),
        (("--pool", "night", "--label", "team=core", "--per", "day"),
         {"pool_name": "night", "label": "team:core", "per": "day"}),
        (("--by", "all"), {}),
        (("--by", "role,label:a/b"), {"by": "role,label:a/b"}),
    ],
)  # fmt: skip
def test_spans_and_filters_are_sent_as_the_gateway_takes_them(answered, muster, words, query):
    assert muster("usage", *words)[0] == 0
    by = {} if "--by" in words else {"by": "pool,project"}
    assert answered.requests[0].query == {**by, **query}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--month", "november"), "'november' is not a month such as 2026-11"),
        (("--month", "2026-13"), "is not a month"),
        (("--month", "2026-11", "--since", "1h"), "a month is a span already"),
        (("--since", "long ago"), "is not a time"),
        (("--by", "nonsense"), "--by: 'nonsense' is none of pool, role, project and label:NAME"),
        (("--by", "pool,projct"), "did you mean `project`?"),
        (("--by", "pool,"), "--by: '' is none of pool"),
        (("--by", "pool,all"), "--by: 'all' is none of"),
        (("--by", "label"), "--by: 'label' is none of"),
        (("--by", "label:a,label:b"), "one label at a time, not label:a and label:b"),
    ],
)
def test_a_wrong_option_is_refused(answered, muster, words, says):
    code, _, err = muster("usage", *words)
    assert (code, says in err) == (2, True), err
    assert not answered.requests


def test_nothing_used_is_said(gateway, muster):
    gateway.answers["GET /usage"] = {**SPAN, "rows": [], "total": {}, "left_out": 0}
    code, out, err = muster("usage")
    assert (code, out, "nothing was used" in err) == (0, "", True)
