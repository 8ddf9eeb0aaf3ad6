"""The HTTP listener: uvicorn, with the bounds that it has not.

uvicorn's `limit_concurrency` bounds answers, not connections: whoever sends no whole request is
counted nowhere, and nothing ends the wait for it. In here:

* A connection too many is answered 503 and closed. It gets a moment to send its request, of which
  nothing is looked at: closed with bytes unread it would be reset, and the answer lost. Only
  `LINGERING` get that moment at a time.
* Whatever a client owes, the rest of a request or the first of it, must come in time; else the
  connection is closed, with 408 when nothing was answered yet (RFC 9110, section 15.5.9).

Time in which an earlier answer is worked on, or in which we do not read because a large body is,
is not the client's: it costs the deadline's length again. How long an answer may take to be read
is not bounded in here; it keeps its connection, and those are bounded.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = structlog.get_logger(__name__)

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\n"
    b"connection: close\r\n\r\n"
)
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
LINGERING = 100
"""Connections beyond the bound, each open for a moment to hear why it is closed."""
_LINGER_SECONDS = 1.0
_SAY_AGAIN_SECONDS = 60.0
"""Between two lines of the log about connections too many."""


@dataclass(frozen=True, slots=True)
class HttpBounds:
    """How many clients at a time, and how long each may take to ask."""

    connections: int = 1000
    request_seconds: float = 120.0
    """From a request's first byte, or the connection's opening, to the request's last byte."""


class HttpServer(uvicorn.Server):
    """uvicorn within bounds, that leaves the signals alone and says when it is ready."""

    def __init__(
        self, app: Any, bounds: HttpBounds, on_leave: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(_Config(app, bounds, **options))
        self.ready = asyncio.Event()
        self._on_leave = on_leave

    def leave(self) -> None:
        """Take no more requests, end waits and streams by `on_leave`, let the rest finish."""
        self._on_leave()
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: the signals belong to the program."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        self.ready.set()


class _Config(uvicorn.Config):
    """Carries the bounds to the connections, which uvicorn makes with nothing but this."""

    def __init__(self, app: Any, bounds: HttpBounds, **options: Any) -> None:
        super().__init__(app, http=_Connection, **options)
        self.bounds = bounds
        self.said_at = float("-inf")


class _Connection(HttpToolsProtocol):
    """One client. `_asking` while a request has begun and not ended."""

    _refused = False
    _asking = False
    _before: RequestResponseCycle | None = None
    """The answer to the request before, which may be under way still (RFC 9112, section 9.3.2)."""
    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Let a client in, or send it away when the house is full."""
        super().connection_made(transport)
        if len(self.connections) > self._config.bounds.connections:
            self._refuse()
        else:
            self._set_alarm()

    def data_received(self, data: bytes) -> None:
        """Pass on what came, and see what is still owed."""
        if self._refused:
            self.transport.close()
            return
        super().data_received(data)
        # Line ends between requests are none, and end uvicorn's own alarm all the same.
        is_waited_for = self._answered and self.timeout_keep_alive_task is None
        if not (self._asking or is_waited_for):
            self._stop_alarm()
        elif self._alarm is None and not self.transport.is_closing():
            self._set_alarm()

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self._asking = True
        self._before = self.cycle
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Note that it has come whole."""
        self._asking = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop_alarm()
        super().connection_lost(exc)

    @property
    def _config(self) -> _Config:
        return cast("_Config", self.config)

    @property
    def _answered(self) -> bool:
        """Whether no answer is under way."""
        return _is_over(self.cycle)

    def _set_alarm(self) -> None:
        self._alarm = self.loop.call_later(self._config.bounds.request_seconds, self._on_alarm)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _on_alarm(self) -> None:
        self._alarm = None
        if self.flow.read_paused or not _is_over(self._before):  # it waits for us, not we for it
            self._set_alarm()
            return
        if self._asking and (self.cycle is self._before or not self.cycle.response_started):
            self.transport.write(_TIMED_OUT)
        self.transport.close()

    def _refuse(self) -> None:
        self._refused = True
        self.transport.write(_BUSY)
        if len(self.connections) > self._config.bounds.connections + LINGERING:
            self.transport.close()
        else:
            self.transport.write_eof()
            self._alarm = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        now = self.loop.time()
        if now - self._config.said_at >= _SAY_AGAIN_SECONDS:
            self._config.said_at = now
            log.warning("http.too_many_connections", most=self._config.bounds.connections)


def _is_over(answer: RequestResponseCycle | None) -> bool:
    return answer is None or answer.response_complete
