"""What commands print when they are refused, or get no answer that they understand."""

import pytest

from tests.unit.muster.gateway_stub import problem

EXPECTED_INT = "config.max_workers: Expected `int`"


@pytest.mark.parametrize(
    ("words", "call", "detail", "errors", "printed"),
    [
        (
            "spawn night --project demo",
            "POST /spawn",
            "not valid",
            {"labels.x": "too long", "input": "input"},
            "muster spawn: not valid\n  labels.x: too long\n  input\n",
        ),
        (
            "pools night",
            "GET /pools/night",
            "there is none",
            {"pool_name": "there is none"},
            "muster pools show: pool_name: there is none\n",
        ),
        (
            "pools set night max_workers=many",
            "PATCH /pools/night",
            EXPECTED_INT,
            {"config.max_workers": EXPECTED_INT},
            f"muster pools set: {EXPECTED_INT}\n",
        ),
    ],
    ids=["two", "one", "setting"],
)
def test_a_refusal_names_the_fields(gateway, muster, words, call, detail, errors, printed):
    """On one line where the only field says all that there is to say."""
    named = [{"field": field, "message": message} for field, message in errors.items()]
    gateway.answers[call] = (400, problem(400, detail, errors=named))
    assert muster(*words.split()) == (1, "", printed)


def test_a_gateway_that_does_not_answer_is_reported_with_its_address(muster):
    code, _, err = muster("ps", "--url", "http://127.0.0.1:1")
    assert code == 3
    assert "nothing answers at http://127.0.0.1:1; is `muster up` running?" in err


def test_the_token_is_sent_and_never_shown(gateway, muster, monkeypatch):
    monkeypatch.setenv("MUSTER_API_TOKEN", "very-secret")
    gateway.answers["GET /pools"] = (401, problem(401, "no"))
    code, out, err = muster("pools")
    assert (code, gateway.requests[0].headers["Authorization"]) == (1, "Bearer very-secret")
    assert "MUSTER_API_TOKEN" in err
    assert "very-secret" not in out + err


def test_a_page_of_a_proxy_is_reported_by_its_status(gateway, muster):
    gateway.answers["GET /pools"] = (504, b"<html>Gateway Timeout</html>")
    assert muster("pools")[::2] == (1, "muster pools: HTTP status 504\n")


def test_an_unexpected_answer_is_reported(gateway, muster):
    gateway.answers["GET /pools"] = b"hello"
    assert "unexpected answer from the gateway" in muster("pools")[2]


@pytest.mark.parametrize("words", [["verify"], ["recover", "--dry-run"], ["recover"], ["replay"],
                                   ["tail"]], ids=" ".join)  # fmt: skip
def test_a_server_that_is_not_redis_is_reported_as_such(words, gateway, muster, tmp_path):
    """An address that leads to an HTTP server."""
    views = tmp_path / "views.db"
    views.touch()
    url = gateway.url.replace("http", "redis")
    code, out, err = muster(*words, "--redis-url", url, "--database-url", f"sqlite:///{views}")
    assert (code, out) == (3, "")
    printed = [line for line in err.splitlines() if line != "checking the logs"]
    assert [line.partition(" is no Redis: ")[0] for line in printed] == [
        f"muster {words[0]}: the server"
    ]
