"""What the handlers of an application find in it."""

from typing import Final

from aiohttp import web

from eventstore.steps.step import Origin
from gateway.backend.backend import Backend

BACKEND: Final = web.AppKey("muster.backend", Backend)
ORIGIN: Final = web.RequestKey("muster.origin", Origin)
