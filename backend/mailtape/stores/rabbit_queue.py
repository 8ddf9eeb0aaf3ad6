"""The queue of accepted mail on RabbitMQ, shared by every process of a fleet.

250 stands on the broker's confirmation, which a quorum queue gives when the mail is in its synced
log. Three connections, each opened when it is first needed: a broker that takes no more mail stops
reading from those who publish, and must not stop those who make room.

What this queue cannot promise, as no broker does: a mail may be in it twice, when a worker ended
between passing it on and acknowledging it, or when a confirmation was not heard and the sender came
again. All that is done after `lease` may happen twice for other reasons too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from mailtape.domain.envelope import Envelope
from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.domain.ids import IngestId, to_text
from mailtape.ports.claims import Claims
from mailtape.ports.queue import Leased, Parked, QueueDepth
from mailtape.stores.bounded_claims import BoundedClaims
from mailtape.stores.rabbit_connection import UNROUTED, broker_errors, connect, disconnect
from mailtape.stores.rabbit_consuming import RabbitConsuming
from mailtape.stores.rabbit_mail import RabbitMail
from mailtape.stores.rabbit_parked import RabbitParked
from mailtape.stores.rabbit_publishing import RabbitPublishing
from mailtape.stores.rabbit_topology import SETTLE_SECONDS, RabbitTopology

log = structlog.get_logger(__name__)

_PUBLISH_SECONDS = 10.0
_PREFETCH = 300
"""Two batches in hand and one behind them. At 256 KiB a message: 75 MiB at the most."""

_DELIVERY_SECONDS = 1.0
"""By then a mail that has left the queue has come to somebody, who tells when it is late."""
_HIDDEN = timedelta(seconds=45)
"""Longer than a process that hangs may have mail and tell nobody: the broker gives its connection
up after three heartbeats (30 s) and offers the mail to others."""
_LOOKS_APART = timedelta(seconds=20)
"""Less than mail needs to pass two looks by, in the hands of a process that hangs."""


class RabbitQueue:
    """`ports.queue.Queue` on RabbitMQ; large mail lies in `claims` meanwhile."""

    def __init__(
        self,
        url: str,
        queue: str,
        claims: Claims,
        *,
        max_bytes: int,
        prefetch: int = _PREFETCH,
        publish_seconds: float = _PUBLISH_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        stored: Callable[[Envelope], Awaitable[bool]] | None = None,
    ) -> None:
        """Make one; `stored` tells of a mail whose raw bytes are gone whether it is stored."""
        self._url = url
        self._topology = RabbitTopology(queue, max_bytes, settle_seconds)
        self._claims = claims
        self._stored = stored
        self._bounded = BoundedClaims(claims, max_bytes)
        self._publishing = RabbitPublishing(url, self._topology, publish_seconds)
        self._consuming = RabbitConsuming(url, self._topology, prefetch)
        self._parked = RabbitParked(url, self._topology)
        self._clear: tuple[datetime, datetime] | None = None
        """Since when and until when no look has found mail that was accepted a while ago."""

    async def declare(self) -> None:
        """Make what the broker must have; what is there already stays as it is.

        Raises:
            Conflict: a queue of that name is declared otherwise.
            Unavailable: the broker is not there.
        """
        with broker_errors():
            connection = await connect(self._url, "declaring")
            try:
                await self._topology.declare(connection)
            finally:
                await disconnect(connection)

    async def start(self) -> None:
        """Be ready to keep mail, or become so when the broker comes.

        Raises:
            Conflict: a queue of that name is declared otherwise.
        """
        await self._publishing.start()

    async def close(self) -> None:
        """Leave the broker; what is leased it offers to others."""
        await self._consuming.close()
        await self._publishing.close()
        await self._parked.close()

    # Keeping

    async def put(self, envelope: Envelope, raw: bytes) -> None:
        """See `ports.queue`."""
        mail = RabbitMail.of(envelope, raw)
        if not mail.claimed:
            await self._publishing.put(mail)
            return
        await self._publishing.ready()  # a claim of what is not queued stays for a day
        async with self._bounded.room(mail.size):
            await self._claims.keep(mail.ingest_id, raw)
        try:
            await self._publishing.put(mail)
        except Unavailable as error:
            if isinstance(error, StoreFull) or error.code == UNROUTED:  # it surely is not queued
                await self._delete_claims([mail])
            raise

    # Leasing

    async def lease(self, most: int, most_bytes: int) -> list[Leased]:
        """See `ports.queue`. What has been delivered by now comes; nothing is waited for."""
        await self._consuming.start()
        while True:
            taken = await self._consuming.take(most, most_bytes)
            try:
                leased = [
                    each
                    for receipt, mail in taken
                    if (each := await self._read(receipt, mail)) is not None
                ]
            except BaseException:
                self._consuming.release([receipt for receipt, _ in taken])
                raise
            if leased:
                return leased

    async def _read(self, receipt: int, mail: RabbitMail) -> Leased | None:
        """Read a delivered mail; one that nobody could read is parked.

        A claim goes when its mail was acknowledged. The broker may have died before it had written
        that down, or have the mail twice, and offer it again: where it is stored, it is forgotten.
        """
        envelope = mail.envelope
        raw = await self._claims.fetch(mail.ingest_id) if mail.claimed else mail.raw
        if envelope is not None and raw is not None:
            return Leased(receipt, envelope, raw, mail.tries)
        if envelope is not None and self._stored is not None and await self._stored(envelope):
            await self._consuming.acknowledge([receipt])
            return None
        reason = "its envelope cannot be read" if raw is not None else "its raw bytes are gone"
        log.error("mail.unreadable", ingest_id=to_text(mail.ingest_id), reason=reason)
        await self.park(receipt, reason)
        return None

    async def acknowledge(self, receipts: Sequence[int]) -> None:
        """See `ports.queue`. A receipt from before a connection was lost is void: no harm is done.

        Such a mail is offered again.
        """
        gone = await self._consuming.acknowledge(receipts)
        claimed = [mail for mail in gone if mail.claimed]
        if claimed and await self._consuming.has_heard():
            await self._delete_claims(claimed)

    async def release(self, receipts: Sequence[int]) -> None:
        """See `ports.queue`. They stay with this process."""
        self._consuming.release(receipts)

    async def retry(self, receipt: int, after_seconds: float) -> None:
        """See `ports.queue`."""
        mail = self._consuming.find(receipt)
        if mail is not None:
            failed = replace(mail, tries=mail.tries + 1)
            await self._publishing.move(
                failed, self._topology.retry, after_seconds=max(0.0, after_seconds)
            )
            await self._consuming.acknowledge([receipt])

    # Setting aside

    async def park(self, receipt: int, reason: str) -> None:
        """See `ports.queue`."""
        mail = self._consuming.find(receipt)
        if mail is not None:
            await self._publishing.move(replace(mail, reason=reason), self._topology.parked)
            await self._consuming.acknowledge([receipt])

    async def parked(self, most: int) -> list[Parked]:
        """See `ports.queue`."""
        return await self._parked.list(most)

    async def parked_raw(self, receipt: int) -> bytes | None:
        """See `ports.queue`."""
        mail = await self._parked.find(receipt)
        if mail is None:
            return None
        return await self._claims.fetch(mail.ingest_id) if mail.claimed else mail.raw

    async def unpark(self, receipt: int) -> bool:
        """See `ports.queue`.

        Raises:
            StoreFull: there is no room for it; it stays parked.
            Unavailable: it may be parked and offered.
        """
        await self._publishing.start()
        return await self._parked.take_out(receipt, self._offer) is not None

    async def unpark_some(self, most: int) -> int:
        """See `ports.queue`."""
        await self._publishing.start()
        return await self._parked.take_some(most, self._offer)

    async def _offer(self, parked: RabbitMail) -> None:
        await self._publishing.put(replace(parked, tries=0, reason=""))

    async def drop(self, receipt: int) -> bool:
        """See `ports.queue`."""

        async def let_go(_: RabbitMail) -> None:
            """Do nothing: it shall be gone."""

        dropped = await self._parked.take_out(receipt, let_go)
        if dropped is not None and dropped.claimed:
            await self._delete_claims([dropped])
        return dropped is not None

    # Telling

    async def check_room(self) -> None:
        """See `ports.queue`. Full is known to who was refused; anybody else learns it then."""
        await self._publishing.start()
        await self._parked.count(self._topology.queue)  # the broker answers, and has the queue
        await self._publishing.check_room()

    async def depth(self) -> QueueDepth:
        """See `ports.queue`. Leases of other processes are not counted anywhere."""
        waiting = [
            await self._parked.count(queue)
            for queue in (self._topology.queue, self._topology.retry)
        ]
        parked = await self._parked.count(self._topology.parked)
        return QueueDepth(sum(waiting) + self._consuming.ready, self._consuming.leased, parked)

    async def named(self, ingest_ids: Sequence[IngestId]) -> set[IngestId]:
        """See `ports.queue`.

        A broker tells how much waits and not what: while anything waits, or anybody holds mail that
        was accepted a while ago, or looks at parked mail, all of these are named; what is younger
        and held by another process is not seen.
        """
        asked = set(ingest_ids)
        if not asked:
            return asked
        held = self._consuming.ingest_ids()
        parked = await self._parked.ingest_ids(unless=self._may_have_mail)
        return asked if parked is None else asked & (held | parked)

    async def left_before(self, now: datetime) -> datetime | None:
        """Tell a time before which all mail was kept that nobody has to store any more; or None.

        Mail that is parked does not count. Ask every few seconds: one look does not see what a
        process has that hangs, so all looks of 45 seconds must have found nothing.

        Raises:
            Unavailable: it cannot be told.
        """
        clear, self._clear = self._clear, None
        if await self._may_have_mail():
            return None
        since = now if clear is None or now - clear[1] > _LOOKS_APART else clear[0]
        self._clear = since, now
        return now - _HIDDEN if now - since >= _HIDDEN else None

    async def _may_have_mail(self) -> bool:
        """Tell whether any mail waits, or somebody holds some that was accepted a while ago.

        Mail is looked for in the order in which it moves, so none can pass the look by.
        """
        await self._publishing.start()
        if await self._anything_waits():
            return True
        await asyncio.sleep(_DELIVERY_SECONDS)
        if await self._publishing.somebody_listens(self._topology.late):
            return True
        return await self._anything_waits()

    async def _anything_waits(self) -> bool:
        """Tell whether a queue has mail that is delivered to nobody; first the delayed."""
        for queue in (self._topology.retry, self._topology.queue):
            if await self._parked.count(queue):
                return True
        return False

    async def _delete_claims(self, mails: Sequence[RabbitMail]) -> None:
        """Delete what nobody needs any more; what stays is found by its age."""
        with suppress(Unavailable):
            await self._claims.delete([mail.ingest_id for mail in mails])
