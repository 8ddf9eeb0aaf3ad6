"""The queue of accepted mail in a SQLite file of its own.

250 stands on this file. Mails that arrive together are committed together: while one commit waits
for the disk, the next group gathers (the shape of publisher confirms, without a broker).

The process that opens the file owns it (`serve` holds the folder's lock), so a lease lives in
memory: a lease that a dead process held is no lease. Tries, delays and parking are on disk. Mails
are numbered in order of arrival and read by a cursor; what must be offered again, because it was
released, retried or its lease ran out, waits in a heap by the time it is due.
"""

import asyncio
import heapq
import shutil
import sqlite3
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mailtape.domain.envelope import Envelope
from mailtape.domain.errors import StoreFull
from mailtape.domain.ids import IngestId, MessageId, OrganisationId
from mailtape.ports.counters import Key
from mailtape.ports.queue import Leased, Parked, QueueDepth
from mailtape.rows.sqlite_database import BLOB_PAGE_OCTETS, driver_errors, prepare, shrink
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.queue_encoding import decode, decode_to_show, encode

T = TypeVar("T")

_LEAST_FREE_OCTETS = 8 * 2**20
"""Below this a mail may still fit, but nobody should count on it."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS mail (
    number INTEGER PRIMARY KEY,
    ingest_id BLOB NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    due_us INTEGER NOT NULL DEFAULT 0,
    parked TEXT,
    envelope BLOB NOT NULL,
    raw BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ix_mail_ingest ON mail (ingest_id);
CREATE INDEX IF NOT EXISTS ix_mail_parked ON mail (number) WHERE parked IS NOT NULL;
"""


@dataclass(slots=True)
class _Put:
    row: tuple[int, bytes, bytes, bytes]
    done: asyncio.Future[None]


_BURST_MAILS = 8
_BURST_SECONDS = 0.03
"""Senders that are kept waiting come again sooner. One alone, or fifty mails a second, are no
burst: nobody waits for them, and they are seen at once."""
_LONG_BACKLOG = 5_000
"""Mails that wait. With more, storing is as urgent as taking in: seconds of work are enough."""


@dataclass(slots=True)
class Backlog:
    """What one organisation has waiting or leased."""

    messages: int = 0
    octets: int = 0
    """Raw bytes."""
    relayed: list[Key] = field(default_factory=list)
    """Queue id and recipient of what a relay handed over."""
    oldest: list[tuple[MessageId, int]] = field(default_factory=list)
    """Id and raw bytes of up to `MOST_OLDEST` messages. What a dead process was about to
    acknowledge is among them, and may have its row already."""


MOST_OLDEST = 10_000
"""Many times what workers hold: a mail to a thousand recipients is a thousand messages."""


@dataclass(slots=True)
class _Lease:
    size: int
    until: float


@dataclass(slots=True)
class _Found:
    """What one look into the file brought."""

    cursor: int
    """The last number that was read as new."""
    leased: list[Leased] = field(default_factory=list)
    octets: int = 0
    unread: Sequence[int] = ()
    """What was due and found no room."""
    later: list[tuple[float, int]] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)

    def take(self, row: tuple[int, bytes, bytes, int, int], most: int, most_bytes: int) -> bool:
        """Add a mail; False when there is no room for it."""
        number, encoded, raw, tries, _ = row
        if self.leased and (len(self.leased) >= most or self.octets + len(raw) > most_bytes):
            return False
        envelope = decode(encoded)
        if envelope is None:
            self.broken.append(number)
            return True
        self.leased.append(Leased(number, envelope, raw, tries))
        self.octets += len(raw)
        return True


class SqliteQueue:
    """`ports.queue.Queue` in one SQLite file, for the one process that owns it."""

    def __init__(
        self,
        path: Path,
        writing: WritingThread,
        *,
        max_bytes: int,
        lease_seconds: float = 3600.0,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._writing = writing
        self._max_bytes = max_bytes
        self._lease_seconds = lease_seconds
        self._clock = clock  # for delays, which outlive the process
        self._ticks = ticks  # for leases, which neither sleep nor a corrected clock may end
        self._writer = _open(path)
        self._writer.executescript(_SCHEMA)
        self._reader = _open(path)
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="queue")
        self._incoming: deque[_Put] = deque()
        self._flush_due = False
        self._put_at: deque[float] = deque(maxlen=_BURST_MAILS)
        self._cursor = 0
        self._again: list[tuple[float, int]] = []
        self._leases: dict[int, _Lease] = {}
        self._leasing = asyncio.Lock()
        self._offer = asyncio.Event()
        self._last, self._held, self._held_bytes, self._parked = self._writer.execute(
            "SELECT coalesce(max(number), 0), count(*), coalesce(sum(length(raw)), 0),"
            " count(parked) FROM mail"
        ).fetchone()

    def close(self) -> None:
        """Close every connection; call it after the writing thread has stopped."""
        self._reading.shutdown()
        self._reader.close()
        self._writer.close()

    # Keeping

    async def put(self, envelope: Envelope, raw: bytes) -> None:
        """See `ports.queue`."""
        if self._held_bytes + len(raw) > self._max_bytes:
            raise StoreFull("The queue is full.")
        self._last += 1
        put = _Put(
            (self._last, envelope.ingest_id, encode(envelope), raw),
            asyncio.get_running_loop().create_future(),
        )
        self._held += 1
        self._put_at.append(self._ticks())
        self._held_bytes += len(raw)
        self._incoming.append(put)
        if not self._flush_due:
            self._flush_due = True
            self._writing.submit(self._flush).add_done_callback(self._flushed)
        await put.done

    def arriving(self) -> bool:
        """Tell whether mail comes in a burst, so that who takes it out may let it go first."""
        latest = self._put_at
        burst = len(latest) == _BURST_MAILS and self._ticks() - latest[0] < _BURST_SECONDS
        return burst and self._held < _LONG_BACKLOG

    def _flush(self) -> tuple[list[_Put], Exception | None]:
        """Commit all that has gathered; on the writing thread."""
        self._flush_due = False  # before the first look: what comes later asks for its own flush
        group: list[_Put] = []
        while self._incoming:
            group.append(self._incoming.popleft())
        try:
            with driver_errors(), self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                self._writer.executemany(
                    "INSERT INTO mail (number, ingest_id, envelope, raw) VALUES (?, ?, ?, ?)",
                    (put.row for put in group),
                )
        except Exception as error:  # noqa: BLE001 - carried to every sender of the group
            return group, error
        return group, None

    def _flushed(self, flush: asyncio.Future[tuple[list[_Put], Exception | None]]) -> None:
        group, error = flush.result()
        for put in group:
            if error is not None:
                self._forget(len(put.row[3]))
            if put.done.done():  # its sender gave up waiting
                continue
            if error is not None:
                put.done.set_exception(error)
            else:
                put.done.set_result(None)
        if error is None:
            self._offer.set()

    # Leasing

    async def lease(self, most: int, most_bytes: int) -> list[Leased]:
        """See `ports.queue`."""
        async with self._leasing:
            while True:
                self._offer.clear()
                leased = await self._fetch(self._take_due(most), most, most_bytes)
                if leased:
                    return leased
                await self._wait_for_offer()

    def _take_due(self, most: int) -> list[int]:
        ticks, now = self._ticks(), self._clock()
        for number in [n for n, lease in self._leases.items() if lease.until <= ticks]:
            self._offer_again(number, now)
        due: list[int] = []
        while self._again and self._again[0][0] <= now and len(due) < most:
            due.append(heapq.heappop(self._again)[1])
        return due

    async def _fetch(self, due: list[int], most: int, most_bytes: int) -> list[Leased]:
        try:
            found = await self._read(lambda: self._select(due, most, most_bytes))
        except BaseException:
            self._give_back(due)
            raise
        # Only now that all was read: what is behind the cursor is leased, due later, or broken.
        self._cursor = max(self._cursor, found.cursor)
        self._give_back(found.unread)
        for when, number in found.later:
            heapq.heappush(self._again, (when, number))
        until = self._ticks() + self._lease_seconds
        for mail in found.leased:
            self._leases[mail.receipt] = _Lease(len(mail.raw), until)
        for number in found.broken:
            await self.park(number, "its envelope cannot be read")
        return found.leased

    def _select(self, due: Sequence[int], most: int, most_bytes: int) -> _Found:
        """Read what is due again, then what is new; on the reading thread."""
        found = _Found(self._cursor)
        columns = "SELECT number, envelope, raw, tries, due_us FROM mail WHERE parked IS NULL"
        for position, number in enumerate(due):
            row = self._reader.execute(f"{columns} AND number = ?", (number,)).fetchone()
            if row is not None and not found.take(row, most, most_bytes):
                found.unread = due[position:]
                return found
        now_us = self._clock() * 1e6
        with closing(
            self._reader.execute(f"{columns} AND number > ? ORDER BY number", (self._cursor,))
        ) as new:
            for row in new:
                if row[4] > now_us:  # was being retried when the last process ended
                    found.later.append((row[4] / 1e6, row[0]))
                elif not found.take(row, most, most_bytes):
                    break
                found.cursor = row[0]
        return found

    async def _wait_for_offer(self) -> None:
        """Sleep until mail arrives, a delay is over or a lease runs out."""
        waits = [when - self._clock() for when, _ in self._again[:1]]
        waits += [lease.until - self._ticks() for lease in self._leases.values()]
        timeout = max(0.0, min(waits)) if waits else None
        try:
            async with asyncio.timeout(timeout):
                await self._offer.wait()
        except TimeoutError:
            return

    def _give_back(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            heapq.heappush(self._again, (0.0, number))

    def _offer_again(self, number: int, when: float) -> None:
        if self._leases.pop(number, None) is not None:
            heapq.heappush(self._again, (when, number))
            self._offer.set()

    # Giving back

    async def acknowledge(self, receipts: Sequence[int]) -> None:
        """See `ports.queue`."""
        held = {n: self._leases.pop(n) for n in receipts if n in self._leases}
        late = [n for n in receipts if n not in held]  # their lease ran out, or they are gone

        def delete(connection: sqlite3.Connection) -> list[int]:
            size = "SELECT length(raw) FROM mail WHERE number = ?"
            sizes = [row[0] for n in late for row in connection.execute(size, (n,))]
            connection.executemany(
                "DELETE FROM mail WHERE number = ?", [(number,) for number in receipts]
            )
            return sizes

        try:
            sizes = await self._write(delete)
        except BaseException:
            self._leases.update(held)
            raise
        for size in (*sizes, *(lease.size for lease in held.values())):
            self._forget(size)

    async def release(self, receipts: Sequence[int]) -> None:
        """See `ports.queue`."""
        for receipt in receipts:
            self._offer_again(receipt, 0.0)

    async def retry(self, receipt: int, after_seconds: float) -> None:
        """See `ports.queue`."""
        due = self._clock() + after_seconds
        await self._change(
            "UPDATE mail SET tries = tries + 1, due_us = ? WHERE number = ?",
            (int(due * 1e6), receipt),
        )
        self._offer_again(receipt, due)

    # Setting aside

    async def park(self, receipt: int, reason: str) -> None:
        """See `ports.queue`."""
        self._parked += await self._change(
            "UPDATE mail SET parked = ? WHERE parked IS NULL AND number = ?", (reason, receipt)
        )
        self._leases.pop(receipt, None)

    async def parked(self, most: int) -> list[Parked]:
        """See `ports.queue`."""
        query = (
            "SELECT number, ingest_id, envelope, length(raw), parked FROM mail"
            " WHERE parked IS NOT NULL ORDER BY number LIMIT ?"
        )
        return await self._read(
            lambda: [
                Parked(number, decode_to_show(encoded, ingest_id, size), reason)
                for number, ingest_id, encoded, size, reason in self._reader.execute(query, (most,))
            ]
        )

    async def parked_raw(self, receipt: int) -> bytes | None:
        """See `ports.queue`."""
        query = "SELECT raw FROM mail WHERE parked IS NOT NULL AND number = ?"
        row = await self._read(lambda: self._reader.execute(query, (receipt,)).fetchone())
        return None if row is None else row[0]

    async def unpark(self, receipt: int) -> bool:
        """See `ports.queue`."""
        return bool(await self._unpark("number = ?", receipt))

    async def unpark_some(self, most: int) -> int:
        """See `ports.queue`."""
        oldest = "SELECT number FROM mail WHERE parked IS NOT NULL ORDER BY number LIMIT ?"
        return await self._unpark(f"number IN ({oldest})", most)

    async def _unpark(self, which: str, value: int) -> int:
        statement = (
            "UPDATE mail SET parked = NULL, tries = 0, due_us = 0"
            f" WHERE parked IS NOT NULL AND {which} RETURNING number"
        )
        numbers = await self._write(
            lambda connection: [row[0] for row in connection.execute(statement, (value,))]
        )
        self._parked -= len(numbers)
        self._give_back([n for n in numbers if n <= self._cursor])  # the rest is read as new
        if numbers:
            self._offer.set()
        return len(numbers)

    async def drop(self, receipt: int) -> bool:
        """See `ports.queue`."""
        raw = await self.parked_raw(receipt)
        if raw is None:
            return False
        changed = await self._change(
            "DELETE FROM mail WHERE parked IS NOT NULL AND number = ?", (receipt,)
        )
        if changed:
            self._parked -= 1
            self._forget(len(raw))
        return bool(changed)

    # Telling

    async def check_room(self) -> None:
        """See `ports.queue`."""
        if self._held_bytes >= self._max_bytes:
            raise StoreFull("The queue is full.")
        free = await self._read(lambda: shutil.disk_usage(self._path.parent).free)
        if free < _LEAST_FREE_OCTETS:
            raise StoreFull("The disk is nearly full.")
        await self._writing.submit(lambda: None)  # somebody is there to write

    async def depth(self) -> QueueDepth:
        """See `ports.queue`."""
        leased = len(self._leases)
        return QueueDepth(self._held - self._parked - leased, leased, self._parked)

    async def backlog(self) -> dict[OrganisationId, Backlog]:
        """Tell what each organisation has waiting or leased."""
        return await self._read(self._count_backlog)

    def _count_backlog(self) -> dict[OrganisationId, Backlog]:
        backlogs: defaultdict[OrganisationId, Backlog] = defaultdict(Backlog)
        query = (
            "SELECT ingest_id, envelope, length(raw) FROM mail WHERE parked IS NULL ORDER BY number"
        )
        for ingest_id, encoded, size in self._reader.execute(query):
            envelope = decode_to_show(encoded, ingest_id, size)
            for delivery in envelope.deliveries:
                backlog = backlogs[delivery.organisation_id]
                backlog.messages += 1
                backlog.octets += size
                if len(backlog.oldest) < MOST_OLDEST:
                    backlog.oldest.append((envelope.message_id(delivery), size))
                if envelope.queue_id:
                    backlog.relayed.append((envelope.queue_id, delivery.recipient))
        return dict(backlogs)

    async def named(self, ingest_ids: Sequence[IngestId]) -> set[IngestId]:
        """See `ports.queue`."""
        query = "SELECT 1 FROM mail WHERE ingest_id = ?"
        return await self._read(
            lambda: {i for i in ingest_ids if self._reader.execute(query, (i,)).fetchone()}
        )

    async def shrink(self, pages: int) -> int:
        """Give free pages of the file back to the disk; tell how many."""
        return await self._writing.submit(lambda: shrink(self._writer, pages))

    def _forget(self, size: int) -> None:
        self._held -= 1
        self._held_bytes -= size

    async def _change(self, statement: str, values: tuple[object, ...]) -> int:
        """Run one statement; tell how many rows it changed."""
        return await self._write(lambda connection: connection.execute(statement, values).rowcount)

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            # `with connection` commits, or rolls back when anything fails, the commit included.
            with driver_errors(), self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                return work(self._writer)

        return await self._writing.submit(run)

    async def _read(self, query: Callable[[], T]) -> T:
        def run() -> T:
            with driver_errors():
                return query()

        return await asyncio.get_running_loop().run_in_executor(self._reading, run)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    prepare(connection, BLOB_PAGE_OCTETS)
    return connection
