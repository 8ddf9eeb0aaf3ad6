"""The implementations that every contract suite runs against."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from contract import mongo, rabbit
from mailtape.ports.bodies import Bodies
from mailtape.ports.claims import Claims
from mailtape.ports.queue import Queue
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.sqlite_bodies import SqliteBodies
from mailtape.stores.sqlite_claims import SqliteClaims
from mailtape.stores.sqlite_queue import SqliteQueue


class Clock:
    """Real time, moved forward by a test that will not wait for it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


LEASE_SECONDS = 60


@dataclass(frozen=True)
class QueueTwin:
    """One implementation, and what a test cannot ask of the port."""

    reopen: Callable[..., Awaitable[Queue]]
    """Opens the same queue again, as a restarted process would."""
    forward: Callable[[float], Awaitable[None]]
    """Lets so many seconds pass."""
    end_leases: Callable[[Queue], Awaitable[None]]
    """Ends every lease, in the way that leases end here."""


@pytest.fixture(params=["sqlite", pytest.param("rabbit", marks=pytest.mark.services)])
async def twin(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueTwin]:
    if request.param == "rabbit":
        async with rabbit.open_queues() as queues:
            yield QueueTwin(queues.reopen, asyncio.sleep, rabbit.lose_connection)
        return
    opened: list[tuple[SqliteQueue, WritingThread]] = []
    clock = Clock()

    def close_last() -> None:
        while opened:
            queue, writing = opened.pop()
            writing.stop()
            queue.close()

    async def reopen(max_bytes: int = 2**30) -> SqliteQueue:
        close_last()
        writing = WritingThread()
        path = tmp_path / "queue.sqlite3"
        queue = SqliteQueue(
            path,
            writing,
            max_bytes=max_bytes,
            lease_seconds=LEASE_SECONDS,
            clock=clock,
            ticks=clock,
        )
        opened.append((queue, writing))
        return queue

    async def forward(seconds: float) -> None:
        clock.ahead += seconds

    async def end_leases(_: Queue) -> None:
        clock.ahead += LEASE_SECONDS + 1

    yield QueueTwin(reopen, forward, end_leases)
    close_last()


@pytest.fixture
async def queue(twin: QueueTwin) -> Queue:
    return await twin.reopen()


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.services)])
async def bodies(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bodies]:
    if request.param == "mongo":
        async with mongo.open_bodies() as kept:
            yield kept
        return
    writing = WritingThread()
    bodies = SqliteBodies(tmp_path / "bodies.sqlite3", writing)
    yield bodies
    writing.stop()
    bodies.close()


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.services)])
async def claims(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Claims]:
    if request.param == "mongo":
        async with mongo.open_claims() as kept:
            yield kept
        return
    writing = WritingThread()
    claims = SqliteClaims(tmp_path / "claims.sqlite3", writing)
    yield claims
    writing.stop()
    claims.close()
