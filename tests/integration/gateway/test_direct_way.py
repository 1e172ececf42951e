"""A spawn is answered without being routed, and a head that comes again is not examined again.

The answers do not show it: a path with an empty query is routed, and each request is sent twice.
"""

import json
import re

from aiohttp.web import RequestHandler

from gateway.wire.connections import Connection
from tests.integration.gateway.stage import AGENTS, TOKEN, Answer, asked, gateway_stage

DIRECT, ROUTED = f"{AGENTS}/spawn", f"{AGENTS}/spawn?"
JSON = {"Content-Type": "application/json"}
ASYNC = {**JSON, "Prefer": "respond-async", "Authorization": f"Bearer {TOKEN}"}
BODY = json.dumps(asked()).encode()
REQUESTS = {
    "accepted": (ASYNC, BODY, 202),
    "with an id": ({**ASYNC, "X-Request-Id": "mine"}, BODY, 202),
    "with a level": ({**ASYNC, "Muster-Durability": "archived"}, BODY, 202),
    "with a position": ({**ASYNC, "Muster-Position": "developer_pool:1"}, BODY, 202),
    "with a wrong position": ({**ASYNC, "Muster-Position": "?"}, BODY, 400),
    "with a wrong id": ({**ASYNC, "X-Request-Id": "a b"}, BODY, 400),
    "under a condition": ({**ASYNC, "If-Match": "*"}, BODY, 400),
    "with a wrong level": ({**ASYNC, "Muster-Durability": "best"}, BODY, 400),
    "by a wrong name": ({**ASYNC, "Host": "evil.example"}, BODY, 421),
    "with a wrong token": ({**ASYNC, "Authorization": "Bearer wrong"}, BODY, 401),
    "of another type": ({**ASYNC, "Content-Type": "text/plain"}, BODY, 415),
    "compressed": ({**ASYNC, "Content-Encoding": "gzip"}, BODY, 415),
    "with a name twice": (ASYNC, BODY.replace(b"{", b'{"project_id": "b", '), 400),
    "for another role": (ASYNC, json.dumps(asked(role_type="tester")).encode(), 422),
    "for no pool": (ASYNC, json.dumps(asked(pool_name="no")).encode(), 404),
    "without a body": (ASYNC, b"", 400),
    "expecting": ({**ASYNC, "Expect": "100-continue"}, BODY, 202),
    "expecting too much": ({**ASYNC, "Expect": "wonders"}, BODY, 417),
}


async def test_both_ways_answer_the_same(redis_url, tmp_path, subtests):
    database = f"sqlite:///{tmp_path / 'v.db'}"
    async with gateway_stage(redis_url, database, api_token=TOKEN) as stage:
        for name, (headers, body, status) in REQUESTS.items():
            with subtests.test(name):
                await answers_the_same(stage, headers, body, status)


async def answers_the_same(stage, headers, body, status):
    counted = stage.backend.observations.measures.numbers["muster_http_requests_total"]
    before = counted.get(("POST", DIRECT, str(status)), 0)
    answers = [
        await stage.ask("POST", path, headers=headers, data=body)
        for path in (DIRECT, DIRECT, ROUTED, ROUTED)
    ]
    assert [answer.status for answer in answers] == [status] * 4
    assert len({comparable(answer) for answer in answers}) == 1
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == (1 if headers.get("X-Request-Id") == "mine" else 4)
    assert counted["POST", DIRECT, str(status)] == before + 4


async def test_what_was_admitted_for_one_method_is_not_for_another(stage):
    for method, status in (("POST", 202), ("PUT", 405), ("POST", 202)):
        headers = {**JSON, "Prefer": "respond-async"}
        assert (await stage.ask(method, DIRECT, headers=headers, data=BODY)).status == status


async def test_a_body_that_came_whole_is_parsed_once(stage, monkeypatch):
    parsed = []

    def data_received(self, data):
        parsed.append(data)
        RequestHandler.data_received(self, data)

    monkeypatch.setattr(Connection, "data_received", data_received)
    headers = {**JSON, "Prefer": "respond-async"}
    assert (await stage.ask("POST", DIRECT, headers=headers, data=BODY)).status == 202
    assert all(parsed)


def comparable(answer: Answer) -> str:
    """An answer without what differs from one agent, request and moment to the next."""
    skipped = ("Date", "X-Request-Id", "Muster-Position", "Content-Length")
    headers = {name: text for name, text in answer.headers.items() if name not in skipped}
    text = f"{headers} {answer.body.decode()}"
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{13}|\d{4}-\d\d-\d\dT[\d:.]+Z", "-", text)
