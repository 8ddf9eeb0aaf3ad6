"""The implementations that every contract suite runs against."""

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from contract import mongo
from mailtape.ports.bodies import Bodies
from mailtape.ports.claims import Claims
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.sqlite_bodies import SqliteBodies
from mailtape.stores.sqlite_queue import SqliteQueue


class Clock:
    """Real time, moved forward by a test that will not wait for it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_queue(tmp_path: Path, clock: Clock) -> AsyncIterator[Callable[..., SqliteQueue]]:
    """Opens the same queue again and again, as restarted processes would."""
    opened: list[tuple[SqliteQueue, WritingThread]] = []

    def close_last() -> None:
        while opened:
            queue, writing = opened.pop()
            writing.stop()
            queue.close()

    def open_queue(max_bytes: int = 2**30) -> SqliteQueue:
        close_last()
        writing = WritingThread()
        path = tmp_path / "queue.sqlite3"
        queue = SqliteQueue(
            path, writing, max_bytes=max_bytes, lease_seconds=60, clock=clock, ticks=clock
        )
        opened.append((queue, writing))
        return queue

    yield open_queue
    close_last()


@pytest.fixture
def queue(open_queue: Callable[..., SqliteQueue]) -> SqliteQueue:
    return open_queue()


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


@pytest.fixture(params=[pytest.param("mongo", marks=pytest.mark.services)])
async def claims(request: pytest.FixtureRequest) -> AsyncIterator[Claims]:
    async with mongo.open_claims() as kept:
        yield kept
