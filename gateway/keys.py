"""What an application carries for its handlers."""

from typing import Final

from aiohttp import web

from gateway.backend import Backend

BACKEND: Final = web.AppKey("muster.backend", Backend)
