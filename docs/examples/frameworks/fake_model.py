"""A model that costs nothing: answers chat completions as OpenAI's API does, whole or as a stream.

    python fake_model.py [PORT]

A question is answered by its own last words. `POST /slow?seconds=N` makes every later answer
take so long; `GET /asked` says how many questions came. To have it away, end it.
"""

import asyncio
import json
import logging
import sys
import time
from typing import Any

from aiohttp import web

PORT = 9999


class Model:
    def __init__(self) -> None:
        self.seconds = 0.02
        self.asked = 0

    async def slow(self, request: web.Request) -> web.Response:
        self.seconds = float(request.query["seconds"])
        return web.json_response({"seconds": self.seconds})

    async def count(self, _: web.Request) -> web.Response:
        return web.json_response({"asked": self.asked})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.asked += 1
        await asyncio.sleep(self.seconds)
        text = f"heard: {words(asked['messages'][-1]['content'])[-40:]}"
        if not asked.get("stream"):
            return web.json_response(completion(asked["model"], text))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for delta, finish in (({"role": "assistant", "content": text}, None), ({}, "stop")):
            data = json.dumps(chunk(asked["model"], delta, finish))
            await response.write(f"data: {data}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


def words(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


def completion(model: str, text: str) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {**head(model, "chat.completion"), "choices": [choice], "usage": usage}


def chunk(model: str, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {**head(model, "chat.completion.chunk"), "choices": [choice]}


def head(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chat-1", "object": kind, "created": int(time.time()), "model": model}


def application() -> web.Application:
    model, app = Model(), web.Application()
    app.router.add_post("/v1/chat/completions", model.complete)
    app.router.add_post("/slow", model.slow)
    app.router.add_get("/asked", model.count)
    return app


if __name__ == "__main__":
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # clients may go away
    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    web.run_app(application(), host="127.0.0.1", port=port, print=None)
