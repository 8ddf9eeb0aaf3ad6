"""Counting answers for `/metrics`, as plain ASGI like the rest of what surrounds every route."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailtape.metrics import HTTP_REQUESTS

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})


class CountRequests:
    """Counts each answer by method, route template and status; outermost, to see them all.

    Paths and methods of a stranger's making are counted as one, so that nobody can fill the
    memory with labels.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in _METHODS else "other"
                route = getattr(scope.get("route"), "path", "none")
                HTTP_REQUESTS.labels(method, route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, count)
