"""`muster alerts`: what needs attention, and what did."""

import json

ALERT = {
    "name": "crash-looping",
    "severity": "warning",
    "subject": "night",
    "message": "30 agents of pool night failed",
    "action": "correct the cause",
    "since": 1_000,
    "pool_name": "night",
    "count": 30,
    "runbook": "docs/operations.md#crash-looping",
    "alert_id": "i1",
    "closed_at": None,
}


def test_alerts_are_listed_with_their_severity_and_subject(gateway, muster):
    gateway.answers["GET /monitor/alerts"] = {"alerts": [ALERT], "next": None}
    code, out, _ = muster("alerts")
    header, line = out.splitlines()
    assert (code, header.split()[:3]) == (0, ["SEVERITY", "ALERT", "SUBJECT"])
    assert line.split()[:5] == ["warning", "crash-looping", "night", "night", "30"]
    assert line.endswith("30 agents of pool night failed")
    assert gateway.requests[-1].query == {}


def test_all_of_a_pool_has_those_that_are_over(gateway, muster):
    over = {**ALERT, "closed_at": 6_000}
    gateway.answers["GET /monitor/alerts"] = {"alerts": [over], "next": None}
    _, out, _ = muster("alerts", "--all", "--pool", "night")
    assert out.splitlines()[1].split()[0] == "over"
    assert "5s" in out
    assert gateway.requests[-1].query == {"include_closed": "true", "pool_name": "night"}


def test_wide_has_the_action_and_the_runbook(gateway, muster):
    gateway.answers["GET /monitor/alerts"] = {"alerts": [ALERT], "next": None}
    _, out, _ = muster("alerts", "-o", "wide")
    assert "correct the cause" in out
    assert "docs/operations.md#crash-looping" in out
    assert json.loads(muster("alerts", "--json")[1]) == [ALERT]


def test_no_alerts_are_a_note(gateway, muster):
    gateway.answers["GET /monitor/alerts"] = {"alerts": [], "next": None}
    assert muster("alerts") == (0, "", "no alerts\n")


def test_a_limit_that_is_none_is_refused(gateway, muster):
    code, _, error = muster("alerts", "--limit", "0")
    assert (code, error) == (2, "muster alerts: --limit: expected 1 to 100,000\n")
