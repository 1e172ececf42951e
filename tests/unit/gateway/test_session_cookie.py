"""A session counts only where a browser says that a page of ours made the request."""

import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.wire.problems import Problem
from gateway.wire.session_cookie import NAME, SECURE_NAME, end, sent_credentials, start

HOST = {"Host": "muster.example:8000"}
COOKIE = {"Cookie": f"{NAME}=c2VjcmV0"}
OURS = {"Sec-Fetch-Site": "same-origin"}
MARKED = {"Muster-Request": "1"}
ORIGIN = {"Origin": "http://muster.example:8000"}
FOREIGN = {"Origin": "http://elsewhere.example"}


def sent(method: str, **headers: str) -> str:
    return sent_credentials(make_mocked_request(method, "/api/v1/agents", headers=headers))


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("GET", OURS),
        ("GET", {"Sec-Fetch-Site": "none"}),
        ("HEAD", ORIGIN),
        ("POST", {**OURS, **MARKED}),
        ("POST", {**ORIGIN, **MARKED}),
        ("POST", MARKED),
        # a proxy may have changed Host; what the browser says of itself counts
        ("DELETE", {**OURS, **FOREIGN, **MARKED}),
    ],
)
def test_a_page_of_ours_may_use_the_session(method: str, headers: dict[str, str]) -> None:
    assert sent(method, **HOST, **COOKIE, **headers) == "Bearer secret"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Sec-Fetch-Site": "cross-site"}),
        ("GET", {"Sec-Fetch-Site": "same-site"}),
        ("GET", FOREIGN),
        ("GET", {"Origin": "null"}),
        ("POST", OURS),
        ("POST", {"Sec-Fetch-Site": "none", **MARKED}),
        ("POST", {"Sec-Fetch-Site": "same-site", **MARKED}),
        ("POST", {**FOREIGN, **MARKED}),
        ("DELETE", {}),
        ("PATCH", {**OURS, "Muster-Request": "0"}),
    ],
)
def test_no_other_page_may(method: str, headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as refused:
        sent(method, **HOST, **COOKIE, **headers)
    assert refused.value.body.status == 403


def test_a_header_is_what_it_was_and_comes_first() -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert sent("POST", **HOST, Authorization="Bearer x", **COOKIE, **elsewhere) == "Bearer x"
    assert sent("POST", **HOST) == ""


@pytest.mark.parametrize("value", ["", "!", "%00", "////", "a"])
def test_a_cookie_that_is_none_of_ours_is_none(value: str) -> None:
    assert sent("GET", **HOST, Cookie=f"{NAME}={value}; theme=dark") == ""


def test_a_cookie_is_for_this_host_and_no_script() -> None:
    for scheme, name in (("http", NAME), ("https", SECURE_NAME)):
        origin = {"Origin": f"{scheme}://muster.example"}
        request = make_mocked_request("POST", "/session", headers=origin)
        value, *attributes = start(request, "a secret; ü").split("; ")
        assert value.startswith(f"{name}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {*attributes}
        assert ("Secure" in attributes) is (scheme == "https")
        assert sent("GET", **HOST, Cookie=value) == "Bearer a secret; ü"
        assert end(request).startswith(f"{name}=;")
        assert "Max-Age=0" in end(request)
