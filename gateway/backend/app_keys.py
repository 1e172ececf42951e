"""What an application carries for its handlers."""

from typing import Final

from aiohttp import web

from eventstore.steps.step import Origin
from gateway.backend.backend import Backend

BACKEND: Final = web.AppKey("muster.backend", Backend)


ORIGIN: Final = web.RequestKey("muster.origin", Origin)
