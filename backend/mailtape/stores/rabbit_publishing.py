"""Publishing to RabbitMQ so that what returns is kept: confirmed, persistent, and routed.

A broker confirms what it can route nowhere, so every message is mandatory and its return raises.
Nothing is published twice: who hears no confirmation tells the sender to come again.
"""

import asyncio
import itertools
import secrets

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection, HeadersType
from aiormq import spec

from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.stores.rabbit_connection import ANSWER_SECONDS, UNROUTED, RabbitLink, broker_errors
from mailtape.stores.rabbit_mail import PROBE, RabbitMail
from mailtape.stores.rabbit_topology import RabbitTopology


class RabbitPublishing:
    """Puts messages into the queues of a topology; its connection serves nothing else."""

    def __init__(self, url: str, topology: RabbitTopology, publish_seconds: float) -> None:
        self._topology = topology
        self._publish_seconds = publish_seconds
        self._link = RabbitLink(url, f"publishing to {topology.queue}", self._open)
        # A returned message is known by its id alone, which must never be under way twice.
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._refused = False

    async def start(self) -> None:
        """Connect; see `RabbitLink.start`."""
        await self._link.start()

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _open(self, connection: AbstractConnection) -> AbstractChannel:
        await self._topology.declare(connection)
        return await connection.channel(publisher_confirms=True, on_return_raises=True)

    def check_connected(self) -> None:
        """Pass while there is a connection.

        Raises:
            Unavailable: there is none at present.
        """
        _ = self._link.channel

    async def put(self, mail: RabbitMail) -> None:
        """Put a mail into the queue; durable on return.

        Raises:
            StoreFull: the queue has reached its bound; nothing was kept.
            Unavailable: it could not be made certain; the mail may appear.
        """
        await self._put(mail.body, mail.headers, self._publish_seconds)

    async def move(
        self, mail: RabbitMail, queue: str, *, after_seconds: float | None = None
    ) -> None:
        """Put a mail into another queue, for a time or for good; durable on return.

        Raises:
            Unavailable: it could not be made certain; the mail may be there.
        """
        await self._publish(
            self._message(mail.body, mail.headers, after_seconds), queue, self._publish_seconds
        )

    async def check_room(self) -> None:
        """Pass when the queue would take a mail now, as far as this process has seen.

        Only who was refused last asks the queue, for what asks it is a message too.

        Raises:
            StoreFull: the queue has reached its bound.
            Unavailable: it cannot be told.
        """
        if self._refused:
            await self._put(b"", PROBE, ANSWER_SECONDS)
            return
        self.check_connected()
        with broker_errors():
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._link.unblocked()

    async def somebody_listens(self, exchange: str) -> bool:
        """Tell whether any queue is bound to an exchange.

        Raises:
            Unavailable: it cannot be told.
        """
        try:
            await self._publish(self._message(b"", {}), "", ANSWER_SECONDS, exchange=exchange)
        except Unavailable as error:
            if error.code != UNROUTED:
                raise
            return False
        return True

    async def _put(self, body: bytes, headers: HeadersType, seconds: float) -> None:
        message = self._message(body, headers)
        try:
            await self._publish(message, self._topology.queue, seconds)
        except StoreFull:
            self._refused = True
            raise
        except Unavailable as error:
            if error.code == UNROUTED:
                self._link.reopen()  # the queue is gone: declare it again
            raise
        self._refused = False

    async def _publish(
        self, message: Message, routing_key: str, seconds: float, *, exchange: str = ""
    ) -> None:
        channel = self._link.channel
        through = (
            await channel.get_exchange(exchange, ensure=False)
            if exchange
            else channel.default_exchange
        )
        with broker_errors():
            async with asyncio.timeout(seconds):
                await self._link.unblocked()
                confirmed = await through.publish(message, routing_key, mandatory=True)
        if not isinstance(confirmed, spec.Basic.Ack):
            raise Unavailable("The queue did not confirm the mail.")

    def _message(
        self, body: bytes, headers: HeadersType, after_seconds: float | None = None
    ) -> Message:
        return Message(
            body,
            headers=headers,
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=f"{self._process}-{next(self._numbers)}",
            expiration=after_seconds,
        )
