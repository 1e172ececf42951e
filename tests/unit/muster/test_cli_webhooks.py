"""`muster webhooks`: where alerts are sent, a test, and dead letters."""

import json

DEAD = {
    "id": "ops:e1",
    "webhook": "ops",
    "type": "alert.opened",
    "alert_id": "i1",
    "attempts": 8,
    "error": "it answered 500",
    "created_at": 1,
}
HOOK = {
    "name": "ops",
    "address": "https://example.com",
    "severity": "warning",
    "pools": [],
    "waiting": 2,
    "dead": 1,
    "error": "it answered 500",
}
CALL = "/api/v1/webhooks"


def test_webhooks_are_listed(gateway, muster):
    gateway.answers[f"GET {CALL}"] = {"webhooks": [HOOK]}
    code, out, _ = muster("webhooks")
    assert code == 0
    assert out.splitlines()[1].split()[:6] == [
        "ops", "https://example.com", "file", "warning", "all", "2",
    ]  # fmt: skip


def test_a_test_that_was_accepted_says_so(gateway, muster):
    accepted = {"name": "ops", "delivered": True, "http_status": 204, "error": "", "seconds": 0.25}
    gateway.answers[f"POST {CALL}/ops/test"] = accepted
    assert muster("webhooks", "test", "ops") == (0, "ops accepted the test (204, 0.25 s)\n", "")
    assert json.loads(muster("webhooks", "test", "ops", "--json")[1]) == accepted


def test_a_test_that_was_not_accepted_ends_with_1(gateway, muster):
    answer = {"name": "ops", "delivered": False, "http_status": 500, "error": "it answered 500"}
    gateway.answers[f"POST {CALL}/ops/test"] = answer
    code, out, error = muster("webhooks", "test", "ops")
    assert (code, out) == (1, "")
    assert error == "muster webhooks: ops did not accept the test: it answered 500\n"


def test_dead_letters_are_listed_sent_again_and_forgotten(gateway, muster):
    gateway.answers[f"GET {CALL}/dead"] = {"dead": [DEAD]}
    gateway.answers[f"POST {CALL}/dead/ops%3Ae1/retry"] = DEAD
    gateway.answers[f"DELETE {CALL}/dead/ops%3Ae1"] = DEAD
    assert muster("webhooks", "dead", "-o", "name") == (0, "ops:e1\n", "")
    assert muster("webhooks", "retry", "ops:e1") == (0, "ops:e1 is sent again\n", "")
    assert muster("webhooks", "drop", "ops:e1") == (0, "ops:e1 is forgotten\n", "")


def test_a_webhook_is_made_changed_and_deleted(gateway, muster, tmp_path):
    """A secret that was made is printed by itself; one of a file is sent, and not printed."""
    gateway.answers[f"POST {CALL}"] = {**HOOK, "secret": "whsec_new"}
    code, out, note = muster("webhooks", "new", "ops", "https://x.test/p", "--pools", "a,b")
    assert (code, out) == (0, "whsec_new\n")
    assert "not shown again" in note
    assert gateway.requests[-1].body == {
        "name": "ops",
        "url": "https://x.test/p",
        "pools": ["a", "b"],
    }
    file = tmp_path / "secret"
    file.write_text("whsec_own")
    gateway.answers[f"PATCH {CALL}/ops"] = {**HOOK, "secret": None}
    changed = muster("webhooks", "change", "ops", "--secret-file", str(file), "--severity",
                     "critical")  # fmt: skip
    assert changed == (0, "webhook ops is changed\n", "")
    assert gateway.requests[-1].body == {"severity": "critical", "secret": "whsec_own"}
    assert muster("webhooks", "change", "ops")[0] == 2
    assert muster("webhooks", "change", "ops", "--secret-file", str(tmp_path / "none"))[0] == 2
    gateway.answers[f"DELETE {CALL}/ops"] = HOOK
    assert muster("webhooks", "delete", "ops") == (0, "webhook ops is deleted\n", "")
