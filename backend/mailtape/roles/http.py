"""The listener of HTTP, for whatever application is served there."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mailtape.background import lasting
from mailtape.http_server import HttpBounds, HttpServer
from mailtape.settings import Settings

_KEEP_ALIVE_SECONDS = 75
"""As nginx: clients that poll now and then keep their connection."""


@asynccontextmanager
async def serving(
    settings: Settings, app: Any, listening: socket.socket, on_leave: Callable[[], None]
) -> AsyncIterator[HttpServer]:
    """Answer requests for as long as the context lasts; `on_leave` ends waits and streams."""
    server = HttpServer(
        app,
        HttpBounds(settings.http_max_connections, settings.http_request_timeout_seconds),
        on_leave,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.drain_timeout_seconds,
    )
    serving = lasting(server.serve(sockets=[listening]), "http")
    await server.ready.wait()
    try:
        yield server
    finally:
        server.leave()
        await serving
