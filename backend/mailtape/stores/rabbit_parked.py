"""Looking into the queue of parked mail, from any process, without taking anything out of it.

A queue cannot be read, only consumed: mail is fetched one by one, is not acknowledged, and goes
back when the look is over or the process is. It goes back to the end, so whoever wants the oldest
looks at all. Meanwhile nobody else sees it, and of two who look at a time each would see less than
there is: so who looks first declares a queue that is exclusive to its connection, and goes with it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractIncomingMessage,
    AbstractQueue,
)
from aiormq.exceptions import ChannelLockedResource

from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import IngestId
from mailtape.ports.queue import Parked
from mailtape.stores.rabbit_connection import ANSWER_SECONDS, RabbitLink, broker_errors
from mailtape.stores.rabbit_mail import RabbitMail
from mailtape.stores.rabbit_topology import RabbitTopology

_UNKNOWN_REASON = "the broker gave it up"

_PATIENCE_SECONDS = 20.0
"""For another's look, which may wait for as long as a mail needs to be offered again."""
_AGAIN_SECONDS = 0.2
_BACK_SECONDS = 0.01

_LEAVE = False
_STOP = True
_Visit = Callable[[RabbitMail, AbstractIncomingMessage], Awaitable[bool]]
"""Looks at one mail; true when no more need to be shown."""


class RabbitParked:
    """Parked mail, and how much lies in each queue; its connection serves questions only."""

    def __init__(self, url: str, topology: RabbitTopology) -> None:
        self._topology = topology
        self._link = RabbitLink(url, f"asking {topology.queue}", self._open)
        self._connection: AbstractConnection | None = None
        self._looking = asyncio.Lock()

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _open(self, connection: AbstractConnection) -> AbstractChannel:
        await self._topology.declare(connection)
        self._connection = connection
        return await connection.channel(publisher_confirms=False)

    async def count(self, queue: str) -> int:
        """Count the messages of a queue that are delivered to nobody; waits for no look.

        Raises:
            Unavailable: it cannot be told.
        """
        await self._link.start()
        with broker_errors():
            async with asyncio.timeout(ANSWER_SECONDS):
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

        await self._look(visit)
        return sorted(found, key=_age)[:most]

    async def find(self, receipt: int) -> RabbitMail | None:
        """Find a parked mail."""
        found: list[RabbitMail] = []

        async def visit(mail: RabbitMail, _: AbstractIncomingMessage) -> bool:
            if _receipt(mail.ingest_id) != receipt:
                return _LEAVE
            found.append(mail)
            return _STOP

        await self._look(visit)
        return found[0] if found else None

    async def ingest_ids(self, unless: Callable[[], Awaitable[bool]]) -> set[IngestId] | None:
        """Name everything that is parked; None when another process looks, or `unless` is true.

        No parked mail is offered again or dropped meanwhile. `unless` is asked first and takes its
        time, by when all is back that another look, or its end with its connection, gave back.
        """
        found: set[IngestId] = set()

        async def visit(mail: RabbitMail, _: AbstractIncomingMessage) -> bool:
            found.add(mail.ingest_id)
            return _LEAVE

        async with self._alone(0) as look:
            if look is None or await unless():
                return None
            await _show(look, visit)
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

        await self._look(visit)
        return found[0] if found else None

    async def _look(self, visit: _Visit) -> None:
        """Show parked mails one by one; waits for another's look to end.

        Raises:
            Unavailable: it does not, or the broker is away.
        """
        async with self._alone(_PATIENCE_SECONDS) as look:
            if look is None:
                raise Unavailable("Another process looks at the parked mail; try again in a while.")
            await _show(look, visit)

    @asynccontextmanager
    async def _alone(self, patience: float) -> AsyncIterator["_Look | None"]:
        """Have parked mail to oneself; None when another process has it all the time.

        Whatever was fetched and is not acknowledged goes back.
        """
        await self._link.start()
        async with self._looking:  # the broker lets in whoever comes by the same connection
            give_up_at = time.monotonic() + patience
            channel = await self._enter()
            while channel is None and time.monotonic() < give_up_at:
                await asyncio.sleep(_AGAIN_SECONDS)
                channel = await self._enter()
            if channel is None:
                yield None
                return
            look = _Look(await channel.get_queue(self._topology.parked, ensure=False))
            try:
                yield look
            finally:
                await self._leave(channel, look.out)

    async def _enter(self) -> AbstractChannel | None:
        """Keep others out, by a channel for the look alone; None when another does so."""
        _ = self._link.channel
        assert self._connection is not None  # noqa: S101 - it is there when its channel is
        with self._or_anew():
            async with asyncio.timeout(ANSWER_SECONDS):
                channel = await self._connection.channel(publisher_confirms=False)
                try:
                    await channel.declare_queue(
                        self._topology.looking,
                        exclusive=True,
                        arguments={"x-queue-type": "classic"},
                    )
                except ChannelLockedResource:
                    return None
        return channel

    async def _leave(self, channel: AbstractChannel, out: int) -> None:
        """Give back what was fetched, then let others in.

        A quorum queue takes back some dozens at a time, and answers other questions meanwhile.
        """
        with self._or_anew():
            async with asyncio.timeout(ANSWER_SECONDS):
                underlay = await channel.get_underlay_channel()
                await underlay.basic_nack(0, multiple=True, requeue=True)  # 0: all of them
                while await self.count(self._topology.parked) < out:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_BACK_SECONDS)
                await channel.queue_delete(self._topology.looking)
                await channel.close()

    @contextmanager
    def _or_anew(self) -> Iterator[None]:
        """Give the connection up when the broker did not answer, and all that it stands for."""
        try:
            with broker_errors():
                yield
        except BaseException:
            self._link.reopen()
            raise


@dataclass(slots=True)
class _Look:
    """Parked mail while it is looked at."""

    parked: AbstractQueue
    out: int = 0
    """How many were fetched and are to go back."""


async def _show(look: _Look, visit: _Visit) -> None:
    """Show mails one by one."""
    while True:
        with broker_errors():
            message = await look.parked.get(fail=False, timeout=ANSWER_SECONDS)
        if message is None:
            return
        look.out += 1
        answer = await visit(RabbitMail.read(message.headers, message.body), message)
        look.out -= message.processed
        if answer is _STOP:
            return


def _age(mail: Parked) -> tuple[int, bytes]:
    ingest_id = mail.envelope.ingest_id
    return mail.envelope.accepted_us or int.from_bytes(ingest_id[:6]) * 1000, ingest_id


def _receipt(ingest_id: IngestId) -> int:
    """Name a mail by the 62 bits of chance in its id: the same in every process and every look."""
    return int.from_bytes(ingest_id[8:]) & (2**62 - 1)
