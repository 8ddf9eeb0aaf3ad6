"""Consuming from RabbitMQ: what was delivered to this process, and who of it has which.

A lease is a delivery that is not yet acknowledged, so it ends with the connection: the broker then
offers the mail to others, and what is said about it here is void. What is given back unharmed stays
with this process and is leased again from memory: a broker counts every mail that is handed back to
it as one more failed delivery, and a store that is down for a night would be held against all mail.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import cast

from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractQueue,
)
from aiormq import Channel, spec
from aiormq.abc import ChannelFrame, DeliveredMessage

from mailtape.background import lasting
from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import IngestId
from mailtape.stores.rabbit_connection import ANSWER_SECONDS, RabbitLink, broker_errors
from mailtape.stores.rabbit_mail import RabbitMail, is_probe
from mailtape.stores.rabbit_topology import RabbitTopology

LATE_SECONDS = 10.0
"""Mail that was accepted so long ago is late, and whoever holds it says so: the broker does not
tell what is delivered and not acknowledged. Long enough to say nothing while all goes well."""
_WATCH_SECONDS = 1.0
"""So often those who hold mail see whether it has become late."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A mail that the broker counts as ours until it is acknowledged."""

    tag: int
    """Counts up within a channel, as receipts do through all of them."""
    mail: RabbitMail | None
    """None for a probe."""


class RabbitConsuming:
    """The mail that the broker has delivered to this process."""

    def __init__(
        self,
        url: str,
        topology: RabbitTopology,
        prefetch: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._topology = topology
        self._prefetch = prefetch
        self._clock = clock
        self._link = RabbitLink(url, f"consuming {topology.queue}", self._open, self._forget)
        self._channel: AbstractChannel | None = None
        """What is held came over this one; another's tags mean other mails."""
        self._last_receipt = 0
        self._held: dict[int, Delivery] = {}
        """All that is delivered and not acknowledged, in order of receipts and so of tags."""
        self._ready: list[int] = []
        """Receipts of what nobody has leased, the oldest first; a heap."""
        self._leased: set[int] = set()
        self._offer = asyncio.Event()
        self._speaking = asyncio.Lock()
        self._late_queue: AbstractQueue | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to be delivered to; see `RabbitLink.start`."""
        if self._watching is None:
            self._watching = lasting(self._watch(), "rabbitmq late mail")
        await self._link.start()

    async def close(self) -> None:
        """Leave; what is held goes back to the broker."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        async with self._speaking:  # an acknowledgement on a closed channel ends the connection
            self._forget()
            await self._link.close()

    @property
    def ready(self) -> int:
        """How many mails have come here and wait to be leased."""
        return len(self._ready)

    @property
    def leased(self) -> int:
        """How many mails are leased by this process."""
        return len(self._leased)

    def ingest_ids(self) -> set[IngestId]:
        """The mails that this process has."""
        return {held.mail.ingest_id for held in self._held.values() if held.mail is not None}

    def find(self, receipt: int) -> RabbitMail | None:
        """The leased mail of a receipt; None when the receipt is void."""
        return self._held[receipt].mail if receipt in self._leased else None

    # Being delivered to

    async def _open(self, connection: AbstractConnection) -> AbstractChannel:
        await self._topology.declare(connection)
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(self._prefetch)
        # The broker takes a consumer away when the queue is deleted: begin anew then.
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._link.reopen())
        self._forget()
        self._channel = channel
        # Of the lower of the driver's two layers: the upper one costs a mail as much again.
        await underlay.basic_consume(self._topology.queue, partial(self._deliver, channel))
        return channel

    async def _deliver(self, channel: AbstractChannel, message: DeliveredMessage) -> None:
        """Take what came over a channel; the link may not show it as the one in use yet.

        What comes while a connection closes is offered anew by the broker.
        """
        if channel is not self._channel:
            return
        self._last_receipt += 1
        receipt = self._last_receipt
        headers = message.header.properties.headers or {}
        mail = None if is_probe(headers) else RabbitMail.read(headers, message.body)
        delivery = Delivery(message.delivery_tag or 0, mail)
        self._held[receipt] = delivery
        if self._late_queue is None and self._is_late(delivery):
            await self._tell_of_late_mail(channel)
        if receipt in self._held:  # it is not when the channel was lost meanwhile
            heapq.heappush(self._ready, receipt)
            self._offer.set()

    def _forget(self) -> None:
        """Void every receipt: the broker offers all of it again."""
        self._channel = None
        self._held.clear()
        self._ready.clear()
        self._leased.clear()
        self._offer.clear()
        self._late_queue = None

    # Leasing

    async def take(self, most: int, most_bytes: int) -> list[tuple[int, RabbitMail]]:
        """Lease the oldest mails that have come, waiting until there is one."""
        while True:
            await self._offer.wait()
            taken, probes = self._take_ready(most, most_bytes)
            if probes:
                try:
                    await self.acknowledge(probes)
                except BaseException:
                    self.release([receipt for receipt, _ in taken])
                    raise
            if taken:
                return taken

    def _take_ready(
        self, most: int, most_bytes: int
    ) -> tuple[list[tuple[int, RabbitMail]], list[int]]:
        taken: list[tuple[int, RabbitMail]] = []
        probes: list[int] = []
        left = most_bytes
        while self._ready and len(taken) < most:
            receipt = self._ready[0]
            mail = self._held[receipt].mail
            if mail is None:
                probes.append(receipt)
            elif taken and mail.size > left:
                break
            else:
                left -= mail.size
                self._leased.add(receipt)
                taken.append((receipt, mail))
            heapq.heappop(self._ready)
        if not self._ready:
            self._offer.clear()
        return taken, probes

    def release(self, receipts: Sequence[int]) -> None:
        """Let these be leased again, before all that came after them."""
        for receipt in self._leased.intersection(receipts):
            self._leased.remove(receipt)
            heapq.heappush(self._ready, receipt)
            self._offer.set()

    # Acknowledging

    async def acknowledge(self, receipts: Sequence[int]) -> list[RabbitMail]:
        """Tell the broker to forget these; give those mails which it was told of.

        A void receipt, and a connection that breaks meanwhile, leave the mail to be offered again.
        """
        async with self._speaking:
            wanted = self._held.keys() & set(receipts)
            try:
                await self._send(acknowledgements(self._held, wanted))
            except Unavailable:
                return []
            gone = [self._held.pop(receipt) for receipt in sorted(wanted) if receipt in self._held]
            self._leased -= wanted
            await self._tell_of_no_late_mail()
            return [each.mail for each in gone if each.mail is not None]

    async def _send(self, words: Sequence[tuple[int, bool]]) -> None:
        """Tell the broker; who cannot be heard loses the connection, and with it the mail."""
        spoken_by = self._link.channel
        with broker_errors():
            channel = cast("Channel", await spoken_by.get_underlay_channel())
            try:
                await send_acknowledgements(channel, words)
            except TimeoutError:
                if spoken_by is self._channel:
                    self._link.reopen()
                raise

    async def has_heard(self) -> bool:
        """Tell whether the broker has read all that it was told so far."""
        try:
            with broker_errors():
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._link.channel.set_qos(self._prefetch)
        except Unavailable:
            return False
        return True

    # Late mail

    def _is_late(self, delivery: Delivery) -> bool:
        """Tell by the time of acceptance, which a UUIDv7 begins with."""
        if delivery.mail is None:
            return False
        return int.from_bytes(delivery.mail.ingest_id[:6]) / 1000 < self._clock() - LATE_SECONDS

    async def _watch(self) -> None:
        """Tell of mail that became late while it was held."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._late_queue is None and any(map(self._is_late, self._held.values())):
                with suppress(Unavailable):  # the connection is lost, and with it the mail
                    await self._tell_of_late_mail(self._link.channel)

    async def _tell_of_late_mail(self, channel: AbstractChannel) -> None:
        """Bind a queue that lives as long as the connection, and so as long as what it tells of.

        Who cannot be heard loses the connection, and with it the mail.
        """
        async with self._speaking:
            if self._late_queue is not None:
                return
            try:
                with broker_errors():
                    async with asyncio.timeout(ANSWER_SECONDS):
                        queue = await channel.declare_queue(
                            exclusive=True, arguments={"x-queue-type": "classic", "x-max-length": 1}
                        )
                        await queue.bind(self._topology.late, routing_key="")
                        if channel is self._channel:
                            self._late_queue = queue
            except Unavailable:
                self._link.reopen()

    async def _tell_of_no_late_mail(self) -> None:
        queue = self._late_queue
        if queue is None or any(map(self._is_late, self._held.values())):
            return
        self._late_queue = None  # who is delivered to meanwhile waits, and then tells again
        try:
            with broker_errors():
                async with asyncio.timeout(ANSWER_SECONDS):
                    await queue.delete(if_unused=False, if_empty=False)
        except Unavailable:
            self._link.reopen()


def acknowledgements(
    held: Mapping[int, Delivery], receipts: Collection[int]
) -> list[tuple[int, bool]]:
    """Put acknowledgements into as few words as are safe: tags, and whether each covers all before.

    One word may cover what was delivered in a row from the oldest that is held; anything else in
    between would be acknowledged with it.
    """
    words: list[tuple[int, bool]] = []
    covered = 0
    for receipt, delivery in held.items():
        if receipt not in receipts:
            break
        covered = receipt
        words = [(delivery.tag, True)]
    words += [(held[receipt].tag, False) for receipt in sorted(receipts) if receipt > covered]
    return words


async def send_acknowledgements(channel: Channel, words: Sequence[tuple[int, bool]]) -> None:
    """Hand acknowledgements to the connection, all in one piece; call it within `broker_errors`.

    The driver would wait for room for each of them, and for ever when the connection is lost
    meanwhile.

    Raises:
        TimeoutError: there was no room.
    """
    frames = [spec.Basic.Ack(delivery_tag=tag, multiple=all_of) for tag, all_of in words]
    async with asyncio.timeout(ANSWER_SECONDS):
        await channel.write_queue.put(ChannelFrame.marshall(channel.number, frames))
