"""A connection to RabbitMQ that is opened again whenever it is lost.

Who uses one is told at once that the broker is away, never left to wait for it; within seconds of
the broker's return it works again. Nothing that was under way is done again: a publish that was cut
off may or may not have arrived, and what was delivered is delivered anew.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aio_pika
import aiormq
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    DeliveryError,
    PublishError,
)
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from mailtape.background import lasting, own_cancellation_only
from mailtape.domain.errors import Conflict, MailtapeError, StoreFull, Unavailable

log = structlog.get_logger(__name__)

Open = Callable[[AbstractConnection], Awaitable[AbstractChannel]]
"""Readies a new connection and gives the channel that is used from now on."""

_CONNECT_SECONDS = 10.0
_RECONNECT_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_HEARTBEAT_SECONDS = 10
"""A broker that stands still is noticed after three of these."""

UNROUTED = "queue_missing"
"""Code of the error that a message could be routed to no queue."""

ANSWER_SECONDS = 5.0
"""For a question to the broker; as long as whoever asks for the health of a process waits."""


class BrokerConnection(aio_pika.Connection):
    """A connection of the driver that can be cut.

    The driver's own way to close one waits until the broker has read all that was written.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wire = _Wire()
        self.kwargs["transport_factory"] = self._wire

    def cut(self) -> None:
        """Have it closed, whatever is unsaid."""
        if self._wire.transport is not None:
            self._wire.transport.abort()


class _Wire(TransportFactory):
    """Connects as the driver does, and remembers by what."""

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self.transport = writer.transport
        return reader, writer


class RabbitLink:
    """One connection with one channel of its own, for one purpose."""

    def __init__(
        self, url: str, purpose: str, opens: Open, lost: Callable[[], None] | None = None
    ) -> None:
        self._url = url
        self._purpose = purpose
        self._opens = opens
        self._lost = lost
        self._connection: BrokerConnection | None = None
        self._channel: AbstractChannel | None = None
        self._broken = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._conflict: Conflict | None = None

    @property
    def channel(self) -> AbstractChannel:
        """The channel in use.

        Raises:
            Unavailable: there is none at present.
        """
        if self._channel is None or self._channel.is_closed:
            raise Unavailable("The queue is not available.")
        return self._channel

    async def unblocked(self) -> None:
        """Wait for as long as the broker takes nothing, for want of memory or disk."""
        transport = None if self._connection is None else self._connection.transport
        if transport is not None:
            await transport.ready()

    async def start(self) -> None:
        """Return when the first try is over; from then on it is tried again and again.

        Raises:
            Conflict: what is declared at the broker is another queue than ours.
        """
        if self._keeping is None:
            self._keeping = lasting(self._keep(), f"rabbitmq {self._purpose}")
        await self._tried.wait()
        if self._conflict is not None:
            raise self._conflict

    def reopen(self) -> None:
        """Give the connection up for a new one, which declares anew what it needs."""
        self._broken.set()

    async def close(self) -> None:
        """Close the connection for good."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        self._keeping = None

    async def _keep(self) -> None:
        told = False
        while True:
            try:
                await self._connect()
                log.info("rabbitmq.connected", purpose=self._purpose)
                told = False
                await self._await_loss()
                log.warning("rabbitmq.lost", purpose=self._purpose)
            except MailtapeError as error:
                if not told:  # once, not every second of a night
                    log.warning("rabbitmq.not_connected", purpose=self._purpose, why=error.message)
                told = True
                self._conflict = error if isinstance(error, Conflict) else None
            except Exception:
                # A bug of ours, or of the driver: the next connection may still work.
                log.exception("rabbitmq.failed", purpose=self._purpose)
            finally:
                try:
                    await self._disconnect()
                finally:  # whoever starts waits for it
                    self._tried.set()
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connect(self) -> None:
        self._broken.clear()
        with broker_errors():
            async with asyncio.timeout(_CONNECT_SECONDS):
                self._connection = await connect(self._url, self._purpose)
                self._channel = await self._opens(self._connection)
        self._conflict = None
        self._tried.set()

    async def _await_loss(self) -> None:
        lost: set[asyncio.Future[bool]] = {
            asyncio.ensure_future(self.channel.closed()),
            asyncio.create_task(self._broken.wait()),
        }
        try:
            await asyncio.wait(lost, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in lost:
                each.cancel()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        had_channel, self._channel = self._channel is not None, None
        if had_channel and self._lost is not None:
            self._lost()
        if connection is not None:
            await disconnect(connection)


async def check_address(url: str) -> None:
    """Let the driver read an address; connects to nothing.

    Raises:
        ValueError: it cannot.
    """
    aiormq.Connection(url)


async def connect(url: str, purpose: str) -> BrokerConnection:
    """Open a connection that breaks when it breaks; call it within `broker_errors`.

    Raises:
        Unavailable: the address cannot be used.
    """
    try:
        return await aio_pika.connect(
            url,
            timeout=_CONNECT_SECONDS,
            heartbeat=_HEARTBEAT_SECONDS,
            client_properties={"connection_name": f"mailtape {purpose}"},
            connection_class=BrokerConnection,
        )
    except ValueError:  # whose words, and whose traceback, may hold parts of the address
        raise Unavailable("RABBITMQ_URL cannot be used.") from None


async def disconnect(connection: BrokerConnection) -> None:
    """Close a connection, whatever state it is in; cut it when that takes too long."""
    # A task: the driver goes on to wait when it is cancelled.
    closing = asyncio.create_task(connection.close())
    try:
        await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
    finally:
        if not closing.done():
            connection.cut()
        await asyncio.gather(closing, return_exceptions=True)


@contextmanager
def broker_errors() -> Iterator[None]:
    """Turn what the driver raises into our own errors.

    Raises:
        StoreFull: the queue refused the mail for want of room.
        Unavailable: all else.
    """
    try:
        # The driver ends what waits on a connection that died by cancelling it.
        with own_cancellation_only():
            yield
    except PublishError as error:  # it would have been confirmed all the same, and kept nowhere
        raise Unavailable("There is no such queue.", code=UNROUTED) from error
    except DeliveryError as error:
        raise StoreFull("The queue is full.") from error
    except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
        raise Unavailable("The queue is not available.") from error
