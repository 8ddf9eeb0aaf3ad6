"""What surrounds every route, as plain ASGI: bugs caught, bodies bounded, safe headers set.

Plain ASGI, because the framework's own base class for middleware breaks streams and waiting
requests. The framework's own limit for bodies answers in plain text, so we have ours.
"""

import asyncio
from collections.abc import Mapping

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailtape.api import errors

_log = structlog.get_logger(__name__)


class CatchBugs:
    """Answers 500 to an exception that nobody expected, and logs it once; outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run what is inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except asyncio.CancelledError:
            # The server's time to drain is over: the one who cancels requests. It would log a
            # traceback and answer 500 to what is no bug.
            _log.warning("request_cut_off", method=scope["method"], path=scope["path"])
            if started:
                raise
            response = errors.problem(503, "unavailable", "The server is shutting down.")
            await response(scope, receive, send)
        except Exception:
            _log.exception("request_failed", method=scope["method"], path=scope["path"])
            if started:  # the server must cut the connection: half an answer is no answer
                raise
            response = errors.problem(500, "internal_error", "Something of ours went wrong.")
            await response(scope, receive, send)


class HeadAsGet:
    """Answers HEAD as GET would be answered, without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run what is inside."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        done = asyncio.Event()

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})
                done.set()

        async def until_done() -> Message:
            # Who streams waits here for its reader to go, and there is nothing left to read.
            asked = asyncio.ensure_future(receive())
            answered = asyncio.ensure_future(done.wait())
            await asyncio.wait({asked, answered}, return_when=asyncio.FIRST_COMPLETED)
            answered.cancel()
            if asked.done():
                return asked.result()
            asked.cancel()
            return {"type": "http.disconnect"}

        as_get = {**scope, "method": "GET"}  # the server's own scope goes on saying HEAD
        try:
            await self._app(as_get, until_done, without_body)
        finally:
            scope.update(as_get, method="HEAD")  # which route it was, for whoever counts


class SafeHeaders:
    """Sets headers that hold for every answer unless a route has said otherwise."""

    _DEFAULTS = (
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run what is inside, its answers amended."""

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._DEFAULTS:
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


class BodyLimit:
    """Refuses a request body beyond its limit: at once when its length is told, else on the way.

    `larger` names the paths that take more, with their limits in bytes.
    """

    def __init__(self, app: ASGIApp, *, limit: int, larger: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run what is inside on a body that is counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._larger.get(scope["path"], self._limit)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
            response = errors.problem(
                413, "body_too_large", f"A body here has at most {limit} bytes."
            )
            await response(scope, receive, send)
            return
        seen = 0

        async def count() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise HTTPException(413)
            return message

        await self._app(scope, count, send)
