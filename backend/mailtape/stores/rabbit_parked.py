"""Looking into the queue of parked mail, from any process, without taking anything out of it.

A queue cannot be read, only consumed: mail is fetched one by one, is not acknowledged, and goes
back when the look is over or the process is. It goes back to the end, so whoever wants the oldest
looks at all. Meanwhile nobody else sees it; of two who look at a time each may see less than there
is.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from mailtape.domain.ids import IngestId
from mailtape.ports.queue import Parked
from mailtape.stores.rabbit_connection import ANSWER_SECONDS, RabbitLink, broker_errors
from mailtape.stores.rabbit_mail import RabbitMail
from mailtape.stores.rabbit_topology import RabbitTopology

_UNKNOWN_REASON = "the broker gave it up"

_LEAVE = False
_STOP = True
_Visit = Callable[[RabbitMail, AbstractIncomingMessage], Awaitable[bool]]
"""Looks at one mail; true when no more need to be shown."""


class RabbitParked:
    """Parked mail, and how much lies in each queue; its connection serves questions only."""

    def __init__(self, url: str, topology: RabbitTopology) -> None:
        self._topology = topology
        self._link = RabbitLink(url, f"asking {topology.queue}", self._open)
        self._looking = asyncio.Lock()

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _open(self, connection: AbstractConnection) -> AbstractChannel:
        await self._topology.declare(connection)
        return await connection.channel(publisher_confirms=False)

    async def count(self, queue: str) -> int:
        """Count the messages of a queue that are delivered to nobody.

        Raises:
            Unavailable: it cannot be told.
        """
        await self._link.start()
        with broker_errors():
            async with asyncio.timeout(ANSWER_SECONDS), self._looking:
                found = await self._link.channel.declare_queue(queue, passive=True)
        return found.declaration_result.message_count or 0

    async def list(self, most: int) -> list[Parked]:
        """List parked mail, oldest first."""
        found: list[Parked] = []

        async def visit(mail: RabbitMail, _: AbstractIncomingMessage) -> bool:
            reason = mail.reason or _UNKNOWN_REASON
            found.append(Parked(_receipt(mail.ingest_id), mail.shown_envelope, reason))
            if len(found) > 2 * most:  # all are looked at, and no more kept than are asked for
                found.sort(key=_age)
                del found[most:]
            return _LEAVE

        await self._show(visit)
        return sorted(found, key=_age)[:most]

    async def find(self, receipt: int) -> RabbitMail | None:
        """Find a parked mail."""
        found: list[RabbitMail] = []

        async def visit(mail: RabbitMail, _: AbstractIncomingMessage) -> bool:
            if _receipt(mail.ingest_id) != receipt:
                return _LEAVE
            found.append(mail)
            return _STOP

        await self._show(visit)
        return found[0] if found else None

    async def ingest_ids(self) -> set[IngestId]:
        """Name everything that is parked."""
        found: set[IngestId] = set()

        async def visit(mail: RabbitMail, _: AbstractIncomingMessage) -> bool:
            found.add(mail.ingest_id)
            return _LEAVE

        await self._show(visit)
        return found

    async def take_out(
        self, receipt: int, before: Callable[[RabbitMail], Awaitable[None]]
    ) -> RabbitMail | None:
        """Remove a parked mail after `before` has seen to it; None when there is none.

        It may lie there twice, when a worker ended while it parked it; all of it goes.
        """
        found: list[RabbitMail] = []

        async def visit(mail: RabbitMail, message: AbstractIncomingMessage) -> bool:
            if _receipt(mail.ingest_id) == receipt:
                if not found:
                    await before(mail)
                    found.append(mail)
                with broker_errors():
                    await message.ack()
            return _LEAVE

        await self._show(visit)
        return found[0] if found else None

    async def _show(self, visit: _Visit) -> None:
        """Show parked mails one by one; whatever was not acknowledged goes back."""
        await self._link.start()
        async with self._looking:
            channel = self._link.channel
            queue = await channel.get_queue(self._topology.parked, ensure=False)
            try:
                while True:
                    with broker_errors():
                        message = await queue.get(fail=False, timeout=ANSWER_SECONDS)
                    if message is None:
                        return
                    mail = RabbitMail.read(message.headers, message.body)
                    if await visit(mail, message) is _STOP:
                        return
            finally:
                with broker_errors():
                    underlay = await channel.get_underlay_channel()
                    await underlay.basic_nack(0, multiple=True, requeue=True)  # 0: all of them


def _age(mail: Parked) -> tuple[int, bytes]:
    ingest_id = mail.envelope.ingest_id
    return mail.envelope.accepted_us or int.from_bytes(ingest_id[:6]) * 1000, ingest_id


def _receipt(ingest_id: IngestId) -> int:
    """Name a mail by the 62 bits of chance in its id: the same in every process and every look."""
    return int.from_bytes(ingest_id[8:]) & (2**62 - 1)
