"""The OpenAPI document and the pages: complete, and safe in a browser."""

import re
from pathlib import Path
from typing import Any

import pytest

from gateway.server import pages
from gateway.server.routes import application
from tests.integration.gateway.stage import AGENTS
from tests.integration.projector.stage import POOL


async def test_the_document_describes_every_route_and_nothing_else(stage):
    document = (await stage.get("/openapi.json")).json
    described = {(m.upper(), path) for path, ops in document["paths"].items() for m in ops}
    resources = application(stage.backend.limits).router.resources()
    served = {(route.method, resource.canonical) for resource in resources for route in resource}
    assert described == {(method, path) for method, path in served if method != "HEAD"}


async def test_the_document_is_consistent(stage):
    """Every reference has a target, every part of a path is declared, no name is used twice."""
    document = (await stage.get("/openapi.json")).json
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    assert {ref.rpartition("/")[2] for ref in _references(document)} <= schemas.keys()
    names = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            names.append(operation["operationId"])
            declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            assert all("description" in answer for answer in operation["responses"].values())
            assert all(p["in"] in {"path", "query", "header"} for p in operation["parameters"])
    assert len(names) == len(set(names))


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    return set().union(*map(_references, value)) if isinstance(value, list) else set()


async def test_an_answer_has_the_shape_that_the_document_says(stage):
    agent_id = await stage.pending()
    document = (await stage.get("/openapi.json")).json
    schemas = document["components"]["schemas"]
    found = (await stage.get(f"{AGENTS}/{agent_id}")).json
    assert found.keys() == schemas["AgentRow"]["properties"].keys()
    pool = (await stage.get(f"{AGENTS}/pools/{POOL}")).json
    assert pool.keys() == schemas["PoolRow"]["properties"].keys()
    problem = await stage.ask("POST", f"{AGENTS}/spawn", json={})
    assert problem.json.keys() <= schemas["Body"]["properties"].keys()


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_runs_only_our_own_files(stage, path):
    """All that it loads comes from this server; nothing is inline, which the policy forbids."""
    page = await stage.get(path)
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    html = page.body.decode()
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)
    assert loaded
    for name in loaded:
        assert (await stage.get(name)).status == 200
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", html)


MAKES_HTML = re.compile(
    rb"(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser"
    rb"|createContextualFragment|javascript:"
)


def test_what_the_pages_show_stays_text():
    """Labels, errors and names of others are put in as text; no script makes HTML of a string."""
    static = Path(pages.__file__).parents[1] / "static"
    scripts = [file for folder in ("app", "docs") for file in (static / folder).rglob("*.js")]
    assert len(scripts) > 10
    for script in scripts:
        assert not MAKES_HTML.search(script.read_bytes()), script


async def test_a_browser_keeps_files_of_this_version_and_asks_for_others(stage):
    page = await stage.get("/")
    assert page.headers["Cache-Control"] == "no-cache"
    again = await stage.get("/", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    [name] = re.findall(r'href="(/static/[^"]+\.css)"', page.body.decode())[:1]
    assert "immutable" in (await stage.get(name)).headers["Cache-Control"]
    of_another = name.replace(name.split("/")[2], "0")
    assert (await stage.get(of_another)).headers["Cache-Control"] == "no-cache"
    for hidden in ("/static/0/docs.html", "/static/0/../pages.py", "/static/0/app/"):
        assert (await stage.get(hidden)).kind == "not-found"


async def test_every_answer_forbids_sniffing_and_framing_and_has_an_id(stage):
    for path in ("/", "/healthz", AGENTS, "/nowhere"):
        headers = (await stage.get(path, headers={"X-Request-Id": "mine-1"})).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Request-Id"] == "mine-1"
