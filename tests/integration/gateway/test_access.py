"""Who may ask: by which name of the host, from which pages, with which token."""

from tests.integration.gateway.raw_connections import SPAWN, connection
from tests.integration.gateway.stage import AGENTS, TOKEN, gateway_stage, logged
from tests.integration.projector.stage import POOL

WRONG_HOSTS = [
    b"GET http://evil.example/api/v1/agents HTTP/1.1\r\nHost: localhost\r\n",
    b"GET http://localhost/api/v1/agents HTTP/1.1\r\nHost: evil.example\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: localhost.evil.example\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: evil.example:localhost\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: localhost@evil.example\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: evil.example\tlocalhost\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: 127.0.0.1.nip.example\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost: 0x7f.1\r\n",
    b"GET /api/v1/agents HTTP/1.1\r\nHost:\r\n",
    b"GET /api/v1/agents HTTP/1.0\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\nHost: evil.example\r\n",
]


async def test_another_host_name_is_refused_anywhere(stage, subtests):
    for head in WRONG_HOSTS:
        with subtests.test(head.decode()):
            async with connection(stage) as client:
                await client.send(head + b"X-Forwarded-Host: localhost\r\n\r\n")
                answer = await client.answer()
                assert (answer.status, answer.kind) == (421, "wrong-host")


async def test_our_own_host_names_are_accepted_in_every_form(stage):
    for address in (b"", b"http://localhost", b"http://[::1]:80"):
        async with connection(stage) as client:
            head = b"GET " + address + b"/api/v1/agents HTTP/1.1\r\nHost: LOCALHOST.:80\r\n\r\n"
            await client.send(head)
            assert (await client.answer()).status == 200


FORM_TYPES = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
    "text/plain; application/json",
    "application/jsonp",
)


async def test_a_page_of_another_site_can_send_nothing_that_has_an_effect(stage):
    """What a form or script may send without a preflight is refused, and no answer allows more."""
    for kind in FORM_TYPES:
        headers = {"Origin": "http://evil.example", "Content-Type": kind}
        answer = await stage.ask("POST", f"{AGENTS}/spawn", data=SPAWN, headers=headers)
        assert (answer.status, answer.kind) == (415, "unsupported-media-type")
        assert not cors_headers(answer)
    preflight_headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "DELETE"}
    preflight = await stage.ask("OPTIONS", f"{AGENTS}/pools/{POOL}", headers=preflight_headers)
    assert (preflight.status, cors_headers(preflight)) == (405, [])


def cors_headers(answer) -> list[str]:
    return [name for name in answer.headers if name.lower().startswith("access-control")]


AUTHORIZATIONS = [
    ("", 401),
    ("Bearer", 401),
    ("Bearer wrong", 401),
    (f"Bearer {TOKEN}x", 401),
    (f"Basic {TOKEN}", 401),
    ("Bearer schlüssel", 401),
    (f"Bearer {TOKEN}", 200),
    (f"bearer {TOKEN}", 200),
]


async def test_a_token_is_required_and_never_logged(redis_url, tmp_path, subtests):
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with logged() as lines, gateway_stage(redis_url, database, api_token=TOKEN) as stage:
        for header, status in AUTHORIZATIONS:
            with subtests.test(header):
                headers = {"Authorization": header} if header else {}
                answer = await stage.get(AGENTS, headers=headers)
                assert answer.status == status
                if status == 401:
                    assert answer.kind == "unauthorized"
                    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="muster"'
                assert TOKEN not in answer.body.decode()
        for path in ("/", "/docs", "/static/0/css/base.css", "/healthz", "/readyz"):
            assert (await stage.get(path)).status in {200, 503}
        for path in ("/metrics", "/openapi.json", "/api/v1/events", f"{AGENTS}/health"):
            assert (await stage.get(path)).status == 401
        assert TOKEN not in repr(stage.gateway._options)
    assert lines
    assert TOKEN not in repr(lines)
