"""Steps 4 and 5 of a message's way as a loop: lease, understand, store, acknowledge.

There is one lane more than there are parsing processes, so that one batch is stored while the
next is understood. A batch leaves when it is full or when nothing more waits; only while mail flows
does it gather for some milliseconds, because to store one costs the servers nearly what ten do.
Where mail is taken in by the same process, all lanes but one stand back a little while it arrives:
the queue is there to wait in, a sender is not.

What fails decides who pays. Whatever a store says is its own fault, or its operator's, and harms no
mail (`Unavailable`): the batch is released and tried again. Only what a store says of a value that
it was given, a parser that dies, or a bug of ours may be the fault of one mail among a hundred: the
batch is done again one by one, and only a mail that fails alone loses a try. Out of
tries, a mail that kills parsers is stored unparsed, raw and whole; one that cannot be stored is
parked for a person.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from mailtape.background import lasting, own_cancellation_only
from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import to_text
from mailtape.metrics import MAILS_PARKED, MESSAGES_STORED, VISIBLE_SECONDS
from mailtape.mime.pack import Packed, pack
from mailtape.mime.understand import unparsed
from mailtape.ports.bodies import Bodies
from mailtape.ports.queue import Leased, Queue
from mailtape.rows.database import Database
from mailtape.services.processing import Understood, store
from mailtape.services.wakeups import Wakeups
from mailtape_workers.parsers import Parser, ParserDied, ParserSettings

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.01
_MOST_LOOKS = 25
"""A lane stands back for a quarter of a second at the most: mail that never stops arriving, or one
that takes long to understand, must not leave the other parsing processes idle."""

_FLOW_MAILS = 16
_FLOW_SECONDS = 0.15
"""Over a hundred mails a second are a flow; with less each is taken at once."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """How a consumer works."""

    workers: int
    batch_mails: int = 100
    batch_bytes: int = 8 * 2**20
    """Bounds a child's memory: a larger mail travels alone."""
    gather_seconds: float = 0.025
    """How long a batch grows while mail flows."""
    tries: int = 3
    retry_seconds: float = 2.0
    stop_seconds: float = 3.0
    """For the batches in hand when it is time to stop: what a drain of 25 leaves of 30."""
    parser: ParserSettings = field(default_factory=ParserSettings)


class Consumer:
    """Takes mail from the queue until it is told to stop."""

    def __init__(
        self,
        queue: Queue,
        bodies: Bodies,
        database: Database,
        wakeups: Wakeups,
        settings: ConsumerSettings,
        clock: Callable[[], datetime],
        arriving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._queue = queue
        self._bodies = bodies
        self._database = database
        self._wakeups = wakeups
        self._settings = settings
        self._clock = clock
        self._arriving = arriving
        self._parsers = [Parser(settings.parser) for _ in range(settings.workers)]
        self._idle: asyncio.Queue[Parser] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._leasing = asyncio.Lock()
        self._leased_at: deque[float] = deque(maxlen=_FLOW_MAILS)
        self._more_waits = False
        self._lanes: list[asyncio.Task[None]] = []

    @property
    def parser_pids(self) -> list[int]:
        """The process ids of the running children."""
        return [parser.pid for parser in self._parsers if parser.pid is not None]

    async def start(self) -> None:
        """Start the children and begin to take mail."""
        await asyncio.gather(*(parser.start() for parser in self._parsers))
        for parser in self._parsers:
            self._idle.put_nowait(parser)
        self._lanes = [
            lasting(self._lane(stands_back=number > 0), f"lane {number}")
            for number in range(self._settings.workers + 1)
        ]

    async def stop(self) -> None:
        """Finish the batches in hand and end the children; what waits stays in the queue.

        A batch that takes too long is given up: it is still in the queue, and harmless to repeat.
        """
        self._stopping.set()
        if self._lanes:
            _, late = await asyncio.wait(self._lanes, timeout=self._settings.stop_seconds)
            for lane in late:
                lane.cancel()
        await asyncio.gather(*(parser.close() for parser in self._parsers))
        await asyncio.gather(*self._lanes, return_exceptions=True)

    async def _lane(self, *, stands_back: bool) -> None:
        while not self._stopping.is_set():
            if stands_back:
                await self._stand_back()
            batch: list[Leased] = []
            try:
                with own_cancellation_only():
                    async with self._leasing:
                        await self._gather()
                        batch = await self._lease()
                    if batch:
                        await self._process(batch)
            except Unavailable as error:
                log.warning("batch.released", mails=len(batch), reason=error.code)
                await self._queue.release([mail.receipt for mail in batch])
                await self._pause()
            except Exception:
                # A bug of ours must neither end the lane nor spin.
                log.exception("batch.failed", mails=len(batch))
                await self._queue.release([mail.receipt for mail in batch])
                await self._pause()

    async def _stand_back(self) -> None:
        """Let arriving mail go first, for a while."""
        for _ in range(_MOST_LOOKS):
            if not self._arriving() or self._stopping.is_set():
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _gather(self) -> None:
        """Let a batch grow where mail flows and none is left to take."""
        latest = self._leased_at
        flows = len(latest) == _FLOW_MAILS and time.monotonic() - latest[0] < _FLOW_SECONDS
        if flows and not self._more_waits:
            await asyncio.sleep(self._settings.gather_seconds)

    def _note_flow(self, batch: Sequence[Leased]) -> None:
        self._leased_at.extend([time.monotonic()] * min(len(batch), _FLOW_MAILS))
        octets = sum(len(mail.raw) for mail in batch)  # near its bound it had no room for the next
        self._more_waits = (
            len(batch) == self._settings.batch_mails or octets > self._settings.batch_bytes // 2
        )

    async def _lease(self) -> list[Leased]:
        """Take a batch; an empty one when it is time to stop."""
        stopping = asyncio.create_task(self._stopping.wait())
        lease = asyncio.create_task(
            self._queue.lease(self._settings.batch_mails, self._settings.batch_bytes)
        )
        await asyncio.wait({stopping, lease}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not lease.done():
            lease.cancel()
            return []
        leased = lease.result()
        self._note_flow(leased)
        return leased

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._settings.retry_seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _process(self, batch: Sequence[Leased]) -> None:
        """Understand and store a batch; one by one when it fails as a whole."""
        try:
            packed = await self._understand([mail.raw for mail in batch])
            await self._store(batch, packed)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, one mail must answer for it
            if len(batch) == 1:
                await self._blame(batch[0], error)
                return
            for mail in batch:
                await self._process([mail])

    async def _blame(self, mail: Leased, error: Exception) -> None:
        """Take a try from a mail that failed alone, or give up on understanding or storing it."""
        ingest_id = to_text(mail.envelope.ingest_id)
        parser_died = isinstance(error, ParserDied)
        if mail.tries + 1 < self._settings.tries:
            log.warning(  # no line of ours is at fault when a parser dies
                "mail.retried",
                ingest_id=ingest_id,
                tries=mail.tries + 1,
                reason=type(error).__name__,
                exc_info=None if parser_died else error,
            )
            await self._queue.retry(mail.receipt, self._settings.retry_seconds)
        elif parser_died:
            log.warning("mail.left_unparsed", ingest_id=ingest_id)
            await self._store([mail], [pack(mail.raw, unparsed(mail.raw))])
        else:
            log.error("mail.parked", ingest_id=ingest_id, exc_info=error)
            MAILS_PARKED.inc()
            self._announce([mail])  # of many recipients some may have their message
            await self._queue.park(mail.receipt, f"could not be stored: {type(error).__name__}")

    async def _understand(self, mails: list[bytes]) -> list[Packed]:
        parser = await self._idle.get()
        try:
            return await parser.understand(mails)
        finally:
            self._idle.put_nowait(parser)

    async def _store(self, batch: Sequence[Leased], packed: Sequence[Packed]) -> None:
        mails = [
            Understood(mail.envelope, content) for mail, content in zip(batch, packed, strict=True)
        ]
        stored = await store(self._database, self._bodies, mails, now=self._clock())
        self._announce(batch)
        MESSAGES_STORED.inc(stored)
        now_us = self._clock().timestamp() * 1e6
        for mail in batch:
            VISIBLE_SECONDS.observe((now_us - mail.envelope.accepted_us) / 1e6)
        await self._queue.acknowledge([mail.receipt for mail in batch])

    def _announce(self, batch: Sequence[Leased]) -> None:
        """Wake whoever waits for any of these, repeats too.

        Whoever made a repeat visible may have died before it could say so.
        """
        deliveries = (delivery for mail in batch for delivery in mail.envelope.deliveries)
        self._wakeups.announce_all({delivery.organisation_id for delivery in deliveries})
