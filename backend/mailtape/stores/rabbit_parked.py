"""Looking into the queue of parked mail, from any process, without taking anything out of it.

A queue cannot be read, only consumed: mail is delivered, is not acknowledged, and goes back when
the look is over or the process is. It goes back behind what went back before, so the order tells
nothing, and whoever wants the oldest looks at all. Meanwhile nobody else sees it, and of two who
look at a time each would see less than there is: so who looks first declares a queue that is
exclusive to its connection, and goes with it.
"""

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, cast

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq import Channel, spec
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelLockedResource

from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.domain.ids import IngestId
from mailtape.ports.queue import Parked
from mailtape.stores.rabbit_connection import ANSWER_SECONDS, RabbitLink, broker_errors
from mailtape.stores.rabbit_consuming import (
    Delivery,
    acknowledgements,
    send_acknowledgements,
)
from mailtape.stores.rabbit_mail import RabbitMail
from mailtape.stores.rabbit_topology import RabbitTopology

_UNKNOWN_REASON = "the broker gave it up"

_PATIENCE_SECONDS = 20.0
"""For another's look, which may wait for as long as a mail needs to be offered again."""
_AGAIN_SECONDS = 0.2
_BACK_SECONDS = 0.01

_WINDOW = 200
"""Mails that the broker is asked for at once, while half as many are under way.

At 256 KiB a message that is 75 MiB at the most."""


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
        async with self._look() as look:
            found: list[Parked] = []
            async for mail, _ in look.all():
                reason = mail.reason or _UNKNOWN_REASON
                found.append(Parked(_receipt(mail.ingest_id), mail.shown_envelope, reason))
                if len(found) > 2 * most:  # no more are kept than are asked for
                    found = heapq.nsmallest(most, found, _age)
        return heapq.nsmallest(most, found, _age)

    async def find(self, receipt: int) -> RabbitMail | None:
        """Find a parked mail."""
        async with self._look() as look:
            async for mail, _ in look.all():
                if _receipt(mail.ingest_id) == receipt:
                    return mail
        return None

    async def ingest_ids(self, unless: Callable[[], Awaitable[bool]]) -> set[IngestId] | None:
        """Name everything that is parked; None when another process looks, or `unless` is true.

        No parked mail is offered again or dropped meanwhile. `unless` is asked first and takes its
        time, by when all is back that another look, or its end with its connection, gave back.
        """
        async with self._alone(0) as look:
            if look is None or await unless():
                return None
            return {mail.ingest_id async for mail, _ in look.all()}

    async def take_out(
        self, receipt: int, before: Callable[[RabbitMail], Awaitable[None]]
    ) -> RabbitMail | None:
        """Remove a parked mail after `before` has seen to it; None when there is none.

        It may lie there twice, when a worker ended while it parked it; all of it goes.
        """
        async with self._look() as look:
            found = [each async for each in look.all() if _receipt(each.mail.ingest_id) == receipt]
            if not found:
                return None
            await before(found[0].mail)
            await look.remove(len(found), [(tag, False) for _, tag in found])
        return found[0].mail

    async def take_some(self, most: int, before: Callable[[RabbitMail], Awaitable[None]]) -> int:
        """Remove up to so many after `before` has seen to each; tell how many.

        Raises:
            StoreFull: `before` had no room for any.
            Unavailable: `before` could not see to one, or the broker is away.
        """
        async with self._look() as look:
            mails = [each async for each in look.some(most)]
            failures = await asyncio.gather(
                *(before(mail) for mail, _ in mails), return_exceptions=True
            )
            held = {tag: Delivery(tag, mail) for mail, tag in mails}
            taken = {tag for tag, failed in zip(held, failures, strict=True) if failed is None}
            await look.remove(len(taken), acknowledgements(held, taken))  # all held was shown
        for failed in failures:
            if failed is not None and not (taken and isinstance(failed, StoreFull)):
                raise failed
        return len(taken)

    @asynccontextmanager
    async def _look(self) -> AsyncIterator["_Look"]:
        """Look at parked mail; waits for another's look to end.

        Raises:
            Unavailable: it does not, or the broker is away.
        """
        async with self._alone(_PATIENCE_SECONDS) as look:
            if look is None:
                raise Unavailable("Another process looks at the parked mail; try again in a while.")
            yield look

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
            look = _Look(
                cast("Channel", await channel.get_underlay_channel()),
                self._topology.parked,
                self.count,
            )
            try:
                yield look
            finally:
                await self._leave(channel, look)

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

    async def _leave(self, channel: AbstractChannel, look: "_Look") -> None:
        """Give back what was delivered, all at once by ending its channel; then let others in."""
        with self._or_anew():
            async with asyncio.timeout(ANSWER_SECONDS):
                await channel.close()
                while await self.count(self._topology.parked) < look.out:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_BACK_SECONDS)
                await self._link.channel.queue_delete(self._topology.looking)

    @contextmanager
    def _or_anew(self) -> Iterator[None]:
        """Give the connection up when the broker did not answer, and all that it stands for."""
        try:
            with broker_errors():
                yield
        except BaseException:
            self._link.reopen()
            raise


class _Seen(NamedTuple):
    """A mail that is looked at."""

    mail: RabbitMail
    tag: int
    """Names its delivery."""


class _Look:
    """Parked mail as it is delivered over the channel of one look."""

    def __init__(
        self, channel: Channel, queue: str, count: Callable[[str], Awaitable[int]]
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._count = count
        self._come: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        """None: nothing comes any more."""
        self._consumers: list[str] = []
        self._under_way = 0
        """How many the broker was asked for that were not shown."""
        self.out = 0
        """How many the broker was asked for that were not removed: they are to go back."""
        channel.closing.add_done_callback(lambda _: self._come.put_nowait(None))

    async def all(self) -> AsyncIterator[_Seen]:
        """Show all there is; the broker says itself that there is no more.

        Raises:
            Unavailable: it cannot be told.
        """
        while True:
            async for seen in self.some(await self._count(self._queue)):
                yield seen
            with broker_errors():
                last = await self._channel.basic_get(self._queue, timeout=ANSWER_SECONDS)
            if isinstance(last.delivery, spec.Basic.GetEmpty):
                return
            self.out += 1
            yield _see(last)

    async def some(self, most: int) -> AsyncIterator[_Seen]:
        """Show as many, or what there is; while they are looked at, the next are under way.

        The broker is never asked for more than it has: what comes too late goes back too late.

        Raises:
            Unavailable: the broker is away.
        """
        unasked = min(most, await self._count(self._queue))
        while unasked or self._under_way:
            if unasked and self._under_way <= _WINDOW // 2:
                window = min(_WINDOW, unasked)
                await self._ask_for(window)
                unasked -= window
            yield _see(await self._next())

    async def remove(self, mails: int, words: Sequence[tuple[int, bool]]) -> None:
        """End by taking so many out of the queue: tags, and whether each covers all before.

        Who may still be sent something would get others for what is acknowledged.
        """
        with broker_errors():
            for consumer in self._consumers:
                await self._channel.basic_cancel(consumer, timeout=ANSWER_SECONDS)
            await send_acknowledgements(self._channel, words)
        self.out -= mails

    async def _ask_for(self, mails: int) -> None:
        """Be sent so many: a consumer is sent no more until some are acknowledged."""
        with broker_errors():
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._channel.basic_qos(prefetch_count=mails)
                begun = await self._channel.basic_consume(self._queue, self._deliver)
        self._consumers.append(str(begun.consumer_tag))
        self._under_way += mails
        self.out += mails

    async def _deliver(self, message: DeliveredMessage) -> None:
        self._come.put_nowait(message)

    async def _next(self) -> DeliveredMessage:
        with broker_errors():
            async with asyncio.timeout(ANSWER_SECONDS):
                message = None if self._channel.is_closed else await self._come.get()
        if message is None:
            raise Unavailable("The queue is not available.")
        self._under_way -= 1
        return message


def _see(message: DeliveredMessage) -> _Seen:
    headers = message.header.properties.headers or {}
    return _Seen(RabbitMail.read(headers, message.body), message.delivery_tag or 0)


def _age(mail: Parked) -> tuple[int, bytes]:
    ingest_id = mail.envelope.ingest_id
    return mail.envelope.accepted_us or int.from_bytes(ingest_id[:6]) * 1000, ingest_id


def _receipt(ingest_id: IngestId) -> int:
    """Name a mail by the 62 bits of chance in its id: the same in every process and every look."""
    return int.from_bytes(ingest_id[8:]) & (2**62 - 1)
