"""`mailtape.api.main:app`: the API of a fleet, for those who bring their own ASGI server.

What `mailtape api` is, without its listener: the same settings, the same servers behind it. How
many connections there may be, and how long a request may take to arrive, is the server's to bound.
It must speak ASGI's lifespan protocol, by which everything is opened and closed.
"""

from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Receive, Scope, Send

from mailtape import first_start
from mailtape.api.main import create_app
from mailtape.data_folder import DataFolder
from mailtape.fleet.api import api_parts
from mailtape.log import configure_log
from mailtape.preparing import check_schema
from mailtape.settings import for_a_fleet, read_settings


class Application:
    """Opens when the server starts, closes when it stops."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the whole life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is None:
            raise RuntimeError("nothing is open: the server does not speak the lifespan protocol")
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                await self._open(stack)
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self, stack: AsyncExitStack) -> None:
        settings = for_a_fleet(read_settings())
        configure_log(settings.log_level, settings.log_format)
        folder = DataFolder(settings.data_dir)
        check_schema(settings, folder)
        keys = first_start.keys(folder, settings)
        parts = await stack.enter_async_context(
            api_parts(settings, folder, keys, settings.http_listen)
        )
        stack.callback(parts.wakeups.close)
        self._app = create_app(parts)


app = Application()
