"""The listener of the policy daemon: moves bytes between Postfix and the stages of a mail.

Promises:

* Every request gets one reply, in order, and the connection stays; requests may come pipelined.
* What a connection carried says nothing about its next request: Postfix tells one mail over
  several connections, and several mails over one.
* A peer that does not speak the protocol is hung up on without a reply, and the log says why.
* Memory is bounded for each connection by the request limit and one read, and connections by their
  number.

What the bytes mean is `protocol`'s to say; what is answered, and within which time, is
`mailtape.services.policy`'s.
"""

import asyncio
import math
from functools import cache
from typing import cast

import structlog
from prometheus_client import Counter

from mailtape.domain import policy
from mailtape.domain.policy import PolicyRequest
from mailtape.domain.quota import Decision, Reason, Verdict
from mailtape.metrics import POLICY_ANSWERS
from mailtape.services.policy import ANSWER_SECONDS, check
from mailtape.services.quota import Quota
from mailtape_policy.protocol import ProtocolError, RequestReader, reply

IDLE_SECONDS = 600.0
"""Twice Postfix's smtpd_policy_service_max_idle: so it is Postfix that hangs up, and never asks in
the moment in which we do."""
_BACKLOG = 1024
_SLICE = 4096
"""Octets that are read into requests at a time. An empty request is one octet, so a whole read of
them would be tens of megabytes and half a second in which nobody else has a turn."""
_TURN = 64
"""Requests answered in a row before others have their turn."""

log = structlog.get_logger(__name__)


class Server:
    """Listens on one address. Needs a running event loop."""

    def __init__(
        self,
        quota: Quota,
        *,
        domain: str,
        connections: int = 1000,
        idle_seconds: float = IDLE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        accept_blind: bool = False,
    ) -> None:
        self.idle_seconds = idle_seconds
        self._quota = quota
        self._domain = domain
        self._most_connections = connections
        self._answer_seconds = answer_seconds
        self._accept_blind = accept_blind
        self._open: set[Connection] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def listen(self, host: str, port: int, *, shared: bool = False) -> tuple[str, int]:
        """Start to take connections; returns host and port as bound (0 chooses one).

        `shared`: other processes may listen there too; the kernel spreads the connections.

        Raises:
            OSError: the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self), host, port, backlog=_BACKLOG, reuse_port=shared
        )
        name = self._listener.sockets[0].getsockname()
        return name[0], name[1]

    async def drain(self, seconds: float) -> None:
        """Stop listening, answer what has come whole, hang up.

        After `seconds` the connections that are left are cut. Postfix asks again elsewhere or
        later.
        """
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._open):
            connection.finish()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for connection in list(self._open):
                connection.abort()
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many peers are connected."""
        return len(self._open)

    async def answer(self, request: PolicyRequest) -> bytes:
        """Decide on a request; gives the reply as it is sent."""
        decision = await check(
            self._quota,
            request,
            domain=self._domain,
            within=self._answer_seconds,
            accept_blind=self._accept_blind,
        )
        counted, answer = _answer_for(decision.verdict, decision.reason)
        counted.inc()
        return answer

    def admit(self, connection: "Connection") -> bool:
        """Count a connection in; tell whether it may stay."""
        self._open.add(connection)
        self._idle.clear()
        return len(self._open) <= self._most_connections

    def discharge(self, connection: "Connection") -> None:
        """Count a connection out."""
        self._open.discard(connection)
        if not self._open:
            self._idle.set()

    def hold(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task until it ends."""
        self._work.add(task)
        task.add_done_callback(self._work.discard)


class Connection(asyncio.Protocol):
    """One peer. One task answers what has come, in order; while it runs, nothing more is read."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader = RequestReader()
        self._arrived = bytearray()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._busy = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._finishing = False
        self._gone = False
        self._deadline = math.inf
        self._alarm: asyncio.TimerHandle | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a peer in, unless the house is full."""
        self._transport = cast("asyncio.Transport", transport)
        if self._server.admit(self):
            self._deadline = self._loop.time() + self._server.idle_seconds
            self._alarm = self._loop.call_at(self._deadline, self._on_alarm)
        else:
            log.warning("policy.too_many_connections", open=self._server.connections - 1)
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Have it read and answered."""
        if self._finishing:
            return
        self._arrived += data
        if self._busy:
            self._transport.pause_reading()
        else:
            self._busy = True
            self._server.hold(self._loop.create_task(self._answer()))

    def eof_received(self) -> bool:
        """Stay for the replies when a peer asks and shuts its side at once."""
        self.finish()
        return self._busy

    def pause_writing(self) -> None:
        """Answer no more to a peer that does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on once it reads."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        """Forget the peer. What was decided stands: it asks again for the same transaction."""
        self._gone = True
        self._arrived.clear()
        self._writable.set()
        if self._alarm is not None:
            self._alarm.cancel()
        self._server.discharge(self)

    # What the server calls.

    def finish(self) -> None:
        """Hang up, now or after the last reply."""
        self._finishing = True
        if not self._busy:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._finishing = True
        self._transport.abort()

    # The conversation.

    async def _answer(self) -> None:
        answered = 0
        try:
            answered = await self._answer_each()
        except Exception:
            log.exception("policy.connection_failed")
            self.abort()
        self._busy = False
        if self._finishing or self._gone:
            self._transport.close()
            return
        if answered:  # the beginning of a request, come by drips, is none
            self._deadline = self._loop.time() + self._server.idle_seconds
        self._transport.resume_reading()

    async def _answer_each(self) -> int:
        """Answer what has come whole, in order; tell how many requests that were."""
        answered = 0
        while self._arrived:
            for request in self._read():
                answer = await self._server.answer(request)
                if self._gone:
                    return answered
                self._transport.write(answer)
                answered += 1
                if not self._writable.is_set():
                    await self._writable.wait()
                elif answered % _TURN == 0:
                    await asyncio.sleep(0)
        return answered

    def _read(self) -> list[PolicyRequest]:
        """Read some of what has arrived; gives the requests that have become whole, in order."""
        some = bytes(self._arrived[:_SLICE])
        del self._arrived[:_SLICE]
        try:
            return self._reader.feed(some)
        except ProtocolError as error:
            peer = self._transport.get_extra_info("peername")
            log.warning("policy.malformed", fault=str(error), peer=str(peer))
            self._arrived.clear()
            self._finishing = True
            return error.before

    def _on_alarm(self) -> None:
        """Hang up on a peer that has asked nothing for long; one alarm, set again when early."""
        now = self._loop.time()
        if now < self._deadline:
            self._alarm = self._loop.call_at(self._deadline, self._on_alarm)
        elif self._busy:  # it reads no replies, or we are slow: the answer's own deadline is short
            self.abort()
        else:
            self._transport.close()


@cache  # there are as many as `domain.quota` has reasons
def _answer_for(verdict: Verdict, reason: Reason | None) -> tuple[Counter, bytes]:
    """Where an answer is counted, and how it is sent."""
    decision = Decision(verdict, reason)
    return POLICY_ANSWERS.labels(reason or "none"), reply(policy.action(decision))
