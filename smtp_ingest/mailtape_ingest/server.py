"""The listener of SMTP and LMTP: moves bytes between sockets and sessions, and keeps the deadlines.

Promises:

* A message that has come whole is handed over to its end, whether or not the client is still
  there; a shut-down waits for it too, as long as it may.
* A client gets time for its next command and time for its message, and no more of either by
  sending slowly.
* What goes wrong in here is logged and answered `451 4.3.0`, never explained to the peer.
* Memory is bounded: messages under way, from their first byte until they are answered, share a
  budget of octets; beside it each connection has a read-ahead, and connections are bounded by
  their number. What finds no room is refused for now with 452, after its dot.

What the bytes mean is `session`'s to say; what the platform answers is `handler`'s.
"""

import asyncio
import math
import secrets
import ssl
from dataclasses import dataclass
from typing import TypeAlias, cast

import structlog

from mailtape.background import own_cancellation_only
from mailtape.domain.envelope import Protocol
from mailtape.domain.errors import MailtapeError
from mailtape.metrics import SMTP_REFUSALS
from mailtape.services.quota import Judged, Silent
from mailtape_ingest import replies
from mailtape_ingest.data import Budget
from mailtape_ingest.events import Abandoned, Close, Event, Login, Mail, Recipient, StartTls
from mailtape_ingest.handler import Handler
from mailtape_ingest.lmtp import LmtpSession
from mailtape_ingest.replies import Reply
from mailtape_ingest.session import Rules, Session
from mailtape_ingest.smtp import SmtpSession

_READ_AHEAD = 64 * 1024
"""Bytes a client may send while we are busy with what it sent before."""
_BACKLOG = 1024
_LAST_MOMENT = 0.5
"""Seconds to read a 421, when the time to drain is over, and to keep a mail that has come whole."""

_Event: TypeAlias = Event[Judged]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a client may take, in seconds."""

    command: float = 300.0
    """For its next command, whole: RFC 5321, section 4.5.3.2.7."""
    message: float = 600.0
    """For all of a message, from our 354 to its dot."""
    handshake: float = 30.0
    """For TLS."""
    farewell: float = 5.0
    """To read our last reply, before the connection is cut."""


class Server:
    """Listens on one address for the protocol of its rules. Needs a running event loop."""

    def __init__(
        self,
        handler: Handler,
        rules: Rules,
        *,
        deadlines: Deadlines | None = None,
        tls: ssl.SSLContext | None = None,
        connections: int = 1000,
        octets_in_flight: int = 512 * 2**20,
    ) -> None:
        if rules.tls != (tls is not None):
            raise ValueError("rules.tls must say whether there is a context")
        self.handler = handler
        self.rules = rules
        self.deadlines = deadlines or Deadlines()
        self.tls = tls
        self.budget = Budget(octets_in_flight)
        self.draining = False
        self._most_connections = connections
        self._open: set[Connection] = set()
        self._conversations: set[asyncio.Task[None]] = set()
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
        """Stop listening, let running messages finish, tell the idle 421.

        After `seconds` whoever is still sending a message is told 421 as well, and a moment later
        the connections that are left are cut. Mail that has come whole by then has another moment
        to be handed over; what is given up after that has no reply, and its sender has it still.
        """
        until = asyncio.get_running_loop().time() + seconds
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._open):
            connection.drain()
        if not await self._emptied(seconds):
            for connection in list(self._open):
                connection.dismiss()
            if not await self._emptied(_LAST_MOMENT):
                for connection in list(self._open):
                    connection.abort()
        await self._end_conversations(until)

    async def _end_conversations(self, until: float) -> None:
        """Wait for them, a moment at least; then give up those that are left."""
        now = asyncio.get_running_loop().time
        until = max(until, now() + _LAST_MOMENT)
        while self._conversations and now() < until:
            await asyncio.wait(self._conversations, timeout=until - now())
        late = list(self._conversations)
        if late:
            log.warning("smtp.given_up", conversations=len(late))
        for conversation in late:
            conversation.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _emptied(self, seconds: float) -> bool:
        """Wait for the last client to go; tell whether it has."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._open)

    def admit(self, connection: "Connection") -> Reply | None:
        """Count a connection in; the reply, when there is one, sends it away again."""
        self._open.add(connection)
        self._idle.clear()
        if self.draining:
            return replies.SHUTTING_DOWN
        if len(self._open) > self._most_connections:
            return replies.TOO_MANY_CONNECTIONS
        return None

    def discharge(self, connection: "Connection") -> None:
        """Count a connection out."""
        self._open.discard(connection)
        if not self._open:
            self._idle.set()

    def hold(self, conversation: asyncio.Task[None]) -> None:
        """Hold on to a conversation until it ends, whatever becomes of its connection."""
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)


class Connection(asyncio.Protocol):
    """One client. Synchronous as long as nobody must be asked; then one task until all is answered.

    While the task runs (`_busy`), it alone drives the session, and what comes in waits.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session: Session[Judged]
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._busy = False
        self._reading = True
        self._writable = True
        self._handshaking = False
        self._client_sent_all = False
        self._hung_up = False
        self._gone = False
        self._silent: tuple[str, Silent | None] = ("", None)
        """The latest transaction of which a recipient could not be judged, and what was silent."""
        self._deadline = math.inf
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, or send it away when the house is full."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._session = _open_session(
            self._server.rules,
            self._server.budget,
            peer[0] if isinstance(peer, tuple) else "",
        )
        refusal = self._server.admit(self)
        if refusal is None:
            self._session.greet()
        else:
            self._session.hang_up(refusal)
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Pass on what the client sent."""
        if self._hung_up:
            return
        self._session.receive(data)
        if self._busy:
            self._throttle()
        else:
            self._advance()

    def eof_received(self) -> bool:
        """Stay for the reply when a client says its last word and shuts its side at once."""
        self._client_sent_all = True
        return self._busy and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        """Take nothing more from a client that does not read our replies."""
        self._writable = False
        self._throttle()

    def resume_writing(self) -> None:
        """Go on once it reads."""
        self._writable = True
        self._throttle()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        """Forget the client; a message that is being handed over goes on. May be called twice."""
        self._gone = True
        if self._alarm is not None:
            self._alarm.cancel()
        if not self._busy:
            self._forget()
        self._server.discharge(self)

    # What the server calls.

    def drain(self) -> None:
        """Hang up now, or as soon as the message that is on its way is answered."""
        if not self._busy and not self._hung_up:
            self._advance()

    def dismiss(self) -> None:
        """Hang up in the middle of a message; one that is being handed over is answered first."""
        if not self._busy and not self._hung_up:
            self._session.hang_up(replies.SHUTTING_DOWN)
            self._hang_up()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    # The conversation.

    def _advance(self) -> None:
        """Let the session work until it needs more bytes, or somebody must be asked."""
        event = self._next_event()
        if event is None:
            self._send()
        elif isinstance(event, Close):
            self._hang_up()
        else:
            self._busy = True
            if isinstance(event, StartTls):
                self._stop_reading_in_clear()
            self._server.hold(self._loop.create_task(self._converse(event)))

    def _next_event(self) -> _Event | None:
        try:
            event = self._session.next_event()
            if event is None and self._server.draining and not self._session.reads_message:
                self._session.hang_up(replies.SHUTTING_DOWN)
                event = self._session.next_event()
        except Exception:
            log.exception("smtp.session_failed")
            self._session.hang_up(replies.UNAVAILABLE)
            event = self._session.next_event()
        return event

    async def _converse(self, event: _Event | None) -> None:
        """Ask and answer, until the session needs more bytes or ends."""
        while event is not None and not isinstance(event, Close):
            await self._settle(event)
            event = self._next_event()
        self._busy = False
        if self._gone or self._transport.is_closing():
            self._forget()
            return
        if event is not None or self._client_sent_all:
            self._hang_up()
        else:
            self._throttle()
            self._send()

    async def _settle(self, event: _Event) -> None:
        """Have one event answered; a "no" becomes a reply here and nowhere else."""
        try:
            with own_cancellation_only():
                await self._ask(event)
        except MailtapeError as error:
            self._refuse(event, replies.for_error(error))
        except Exception:
            log.exception("smtp.handler_failed", event_type=type(event).__name__)
            self._refuse(event, replies.UNAVAILABLE)

    async def _ask(self, event: _Event) -> None:
        """Ask whose answer an event wants, and give it to the session."""
        handler, session = self._server.handler, self._session
        match event:
            case Recipient():
                judged = await self._judge(event)
                refusal = replies.for_decision(judged.decision)
                if refusal is None:
                    session.accept_recipient(judged)
                else:
                    self._refuse(event, refusal)
            case Mail():
                outcomes = await handler.message(event)
                for outcome in outcomes:
                    _count_refusal(event, outcome)
                session.answer_each(outcomes)
            case Abandoned():
                await handler.abandoned(event)
            case Login():
                await handler.authenticate(event)
                session.answer(replies.AUTHENTICATED)
            case StartTls():
                await self._start_tls()
            case Close():
                pass

    async def _judge(self, recipient: Recipient[Judged]) -> Judged:
        """Judge a recipient, without what was silent about another of its transaction."""
        transaction, silent = self._silent
        judged = await self._server.handler.recipient(
            recipient, silent if recipient.transaction == transaction else None
        )
        if judged.silent is not None:
            self._silent = (recipient.transaction, judged.silent)
        return judged

    def _refuse(self, event: _Event, reply: Reply) -> None:
        if not isinstance(event, Abandoned):
            _count_refusal(event, reply)
            self._session.answer(reply)

    def _forget(self) -> None:
        """Have it told, once, that the mail of a client that is gone will not come."""
        self._session.lose()
        event = self._session.next_event()
        if isinstance(event, Abandoned):
            self._server.hold(self._loop.create_task(self._settle(event)))

    def _stop_reading_in_clear(self) -> None:
        self._handshaking = True
        self._transport.pause_reading()

    async def _start_tls(self) -> None:
        """Shake hands. Reading stopped with the command, so whatever comes now comes under TLS."""
        self._stop_reading_in_clear()
        self._send()
        self._session.tls_begins()
        try:
            transport = await self._loop.start_tls(
                self._transport,
                self,
                cast("ssl.SSLContext", self._server.tls),
                server_side=True,
                ssl_handshake_timeout=self._server.deadlines.handshake,
            )
        except OSError:  # ssl.SSLError and time-outs among them: there is nobody left to tell
            transport = None
        self._handshaking = False
        if transport is None or self._gone:
            self._transport.abort()
            # asyncio tells the protocol of a connection lost within the handshake nothing.
            self.connection_lost(None)
            self._session.hang_up(replies.UNAVAILABLE)
            return
        self._transport = transport
        self._reading = True
        version, cipher = _tls_names(transport)
        self._session.tls_agreed(f"{version} {cipher}")

    def _send(self) -> None:
        """Send what the session has to say; with that the client's clock starts again."""
        data = self._session.outgoing()
        if data:
            self._transport.write(data)
            deadlines = self._server.deadlines
            self._set_deadline(
                deadlines.message if self._session.reads_message else deadlines.command
            )

    def _hang_up(self) -> None:
        """Say the last word and wait a little for the client to go.

        Closing with its bytes unread would reset the connection, and the reply be lost on the way.
        """
        self._send()
        self._hung_up = True
        self._set_deadline(self._server.deadlines.farewell)
        if self._client_sent_all or not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
            self._throttle()
        except OSError:  # the client was faster
            self._transport.abort()

    def _throttle(self) -> None:
        """Read only while there is room for what comes and for what we say to it."""
        if self._handshaking or self._gone:
            return
        has_room = self._writable and self._session.waiting_octets <= _READ_AHEAD
        if self._reading and not (has_room or self._hung_up):
            self._reading = False
            self._transport.pause_reading()
        elif not self._reading and (has_room or self._hung_up):
            self._reading = True
            self._transport.resume_reading()

    # The deadline: one alarm, set again when it goes off too early. Most never do.

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if self._deadline < self._alarm_at:
            self._set_alarm(self._deadline)

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = when
        self._alarm = self._loop.call_at(when, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm_at = math.inf  # none is set now: the next deadline must set one
        now = self._loop.time()
        if self._busy:  # the client waits for us, not we for it
            self._set_alarm(now + self._server.deadlines.command)
        elif now < self._deadline:
            self._set_alarm(self._deadline)
        elif self._hung_up:
            self._transport.abort()
        else:
            self._session.hang_up(replies.IDLE_TOO_LONG)
            self._advance()


def _open_session(rules: Rules, budget: Budget, client_address: str) -> Session[Judged]:
    session = {Protocol.SMTP: SmtpSession[Judged], Protocol.LMTP: LmtpSession[Judged]}
    return session[rules.protocol](
        rules, budget, client_address=client_address, name=secrets.token_hex(8)
    )


def _count_refusal(event: _Event, reply: Reply) -> None:
    if not reply.positive:
        SMTP_REFUSALS.labels(type(event).__name__.lower(), reply.code).inc()


def _tls_names(transport: asyncio.Transport) -> tuple[str, str]:
    """Name version and cipher of a connection: `TLSv1.3`, `TLS_AES_256_GCM_SHA384`."""
    tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
    cipher = tls.cipher()
    return tls.version() or "", cipher[0] if cipher else ""
