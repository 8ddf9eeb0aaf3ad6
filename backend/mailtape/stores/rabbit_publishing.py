"""Publishing to RabbitMQ so that what returns is kept: confirmed, persistent, and routed.

A broker confirms what it can route nowhere, so every message is mandatory and its return raises.
Nothing is published twice: who hears no confirmation tells the sender to come again.
"""

import asyncio
import itertools
import secrets
from typing import cast

from aio_pika import DeliveryMode
from aio_pika.abc import AbstractChannel, AbstractConnection, HeadersType
from aiormq import Channel, spec

from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.stores.rabbit_confirming import ConfirmingChannel
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
        self._confirming: ConfirmingChannel | None = None

    async def start(self) -> None:
        """Connect; see `RabbitLink.start`."""
        await self._link.start()

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _open(self, connection: AbstractConnection) -> AbstractChannel:
        await self._topology.declare(connection)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._confirming = ConfirmingChannel(cast("Channel", await channel.get_underlay_channel()))
        return channel

    async def ready(self) -> None:
        """Return when the broker takes messages, after as long as a publish may take.

        Raises:
            Unavailable: it takes none, or is not there.
        """
        await self._ready(self._publish_seconds)

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
        properties = self._properties(mail.headers, after_seconds)
        await self._publish(mail.body, properties, queue, self._publish_seconds)

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
        await self._ready(ANSWER_SECONDS)

    async def somebody_listens(self, exchange: str) -> bool:
        """Tell whether any queue is bound to an exchange.

        Raises:
            Unavailable: it cannot be told.
        """
        try:
            await self._publish(b"", self._properties({}), "", ANSWER_SECONDS, exchange=exchange)
        except Unavailable as error:
            if error.code != UNROUTED:
                raise
            return False
        return True

    async def _ready(self, seconds: float) -> None:
        _ = self._link.channel
        with broker_errors():
            async with asyncio.timeout(seconds):
                await self._link.unblocked()

    async def _put(self, body: bytes, headers: HeadersType, seconds: float) -> None:
        properties = self._properties(headers)
        try:
            await self._publish(body, properties, self._topology.queue, seconds)
        except StoreFull:
            self._refused = True
            raise
        except Unavailable as error:
            if error.code == UNROUTED:
                self._link.reopen()  # the queue is gone: declare it again
            raise
        self._refused = False

    async def _publish(
        self,
        body: bytes,
        properties: spec.Basic.Properties,
        routing_key: str,
        seconds: float,
        *,
        exchange: str = "",
    ) -> None:
        _ = self._link.channel
        assert self._confirming is not None  # noqa: S101 - it is opened with the connection
        with broker_errors():
            async with asyncio.timeout(seconds):
                await self._link.unblocked()
                confirmed = await self._confirming.publish(body, properties, exchange, routing_key)
        if not confirmed:
            raise Unavailable("The queue did not confirm the mail.")

    def _properties(
        self, headers: HeadersType, after_seconds: float | None = None
    ) -> spec.Basic.Properties:
        return spec.Basic.Properties(
            headers=headers,
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=f"{self._process}-{next(self._numbers)}",
            expiration=None if after_seconds is None else str(int(after_seconds * 1000)),
        )
