"""What only the embedded queue can tell, and can meet: a file that cannot be read, or not all."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from fakes import a_delivery, an_envelope
from mailtape.domain.errors import Unavailable
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.sqlite_queue import Backlog, SqliteQueue

RAWS = [str(number).encode() for number in range(5)]


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    writing = WritingThread()
    queue = SqliteQueue(tmp_path / "queue.sqlite3", writing, max_bytes=2**30)
    for raw in RAWS:
        await queue.put(an_envelope(raw), raw)
    yield queue
    writing.stop()
    queue.close()


async def _leased(queue: SqliteQueue) -> list[bytes]:
    async with asyncio.timeout(10):
        return [mail.raw for mail in await queue.lease(100, 2**20)]


async def test_a_look_that_fails_half_way_hides_no_mail(queue: SqliteQueue) -> None:
    """SQLite is interrupted after ever more of its steps: every row is once the last one read."""
    failed = 0
    for steps in range(1, 200, 3):
        queue._reader.set_progress_handler(lambda: 1, steps)
        try:
            leased = await queue.lease(100, 2**20)
        except Unavailable:
            failed += 1
            queue._reader.set_progress_handler(None, 0)
            leased = await queue.lease(100, 2**20)
        queue._reader.set_progress_handler(None, 0)
        assert [mail.raw for mail in leased] == RAWS
        await queue.release([mail.receipt for mail in leased])
        queue._cursor, queue._again = 0, []  # as a new process would begin

    assert failed > 10


async def test_an_envelope_that_cannot_be_read_is_parked_and_the_rest_is_offered(
    queue: SqliteQueue, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as connection, connection:
        connection.execute("UPDATE mail SET envelope = x'c1' WHERE raw = x'32'")

    assert await _leased(queue) == [b"0", b"1", b"3", b"4"]

    [parked] = await queue.parked(10)
    assert parked.reason == "its envelope cannot be read"
    assert await queue.parked_raw(parked.receipt) == b"2"


async def test_tells_what_each_organisation_has_waiting(queue: SqliteQueue) -> None:
    await queue.acknowledge([mail.receipt for mail in await queue.lease(100, 2**20)])
    first, second = a_delivery("a@mail.example.com"), a_delivery("b@mail.example.com")
    relayed = an_envelope(b"12345", deliveries=(first, second), queue_id="4A1")
    await queue.put(relayed, b"12345")
    direct = an_envelope(b"123", deliveries=(first,))
    await queue.put(direct, b"123")
    await queue.lease(1, 2**20)

    assert await queue.backlog() == {
        first.organisation_id: Backlog(
            2,
            8,
            relayed=[("4A1", "a@mail.example.com")],
            oldest=[(relayed.message_id(first), 5), (direct.message_id(first), 3)],
        ),
        second.organisation_id: Backlog(
            1,
            5,
            relayed=[("4A1", "b@mail.example.com")],
            oldest=[(relayed.message_id(second), 5)],
        ),
    }


@pytest.mark.parametrize(
    ("mails", "seconds_between", "arriving"),
    [(7, 0.001, False), (8, 0.001, True), (8, 0.004, True), (8, 0.005, False), (100, 0.02, False)],
)
async def test_eight_mails_within_thirty_milliseconds_are_a_burst(
    tmp_path: Path, mails: int, seconds_between: float, *, arriving: bool
) -> None:
    ticks = 0.0
    writing = WritingThread()
    queue = SqliteQueue(tmp_path / "burst.sqlite3", writing, max_bytes=2**30, ticks=lambda: ticks)
    for number in range(mails):
        ticks += seconds_between
        raw = b"%d" % number
        await queue.put(an_envelope(raw), raw)

    assert queue.arriving() is arriving
    ticks += 0.03
    assert not queue.arriving()
    writing.stop()
    queue.close()


async def test_a_burst_does_not_go_first_when_thousands_wait(tmp_path: Path) -> None:
    writing = WritingThread()
    queue = SqliteQueue(tmp_path / "long.sqlite3", writing, max_bytes=2**30, ticks=lambda: 0.0)

    arriving = []
    for start in range(0, 6_000, 1_000):
        mails = [b"%d" % number for number in range(start, start + 1_000)]
        await asyncio.gather(*(queue.put(an_envelope(raw), raw) for raw in mails))
        arriving.append(queue.arriving())

    assert arriving == [True] * 4 + [False] * 2
    writing.stop()
    queue.close()
