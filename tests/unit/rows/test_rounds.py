"""One process does a job that all have; another does it when that one is no more."""

import asyncio
from datetime import UTC, datetime, timedelta

from installation import Installation
from mailtape.roles.jobs import in_turn
from mailtape.roles.upkeep import Job

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Worker:
    """What one process of several does when its clock says so."""

    def __init__(self, installation: Installation) -> None:
        self.now = NOON
        self.rounds = 0
        self.hangs = False
        job = Job(60.0, "tests.count", self._count)
        [self.in_turn] = in_turn(installation.parts.database, [job], lambda: self.now)

    async def _count(self) -> int:
        self.rounds += 1
        if self.hangs:
            await asyncio.Event().wait()
        return 7


async def test_of_all_who_come_at_once_one_does_the_round(installation: Installation) -> None:
    workers = [Worker(installation) for _ in range(6)]

    done = await asyncio.gather(*(worker.in_turn.run() for worker in workers))

    assert sorted(done) == [0, 0, 0, 0, 0, 7]
    assert sum(worker.rounds for worker in workers) == 1


async def test_a_round_is_done_by_another_when_the_one_before_hangs(
    installation: Installation,
) -> None:
    hanging, other = Worker(installation), Worker(installation)
    hanging.hangs = True
    stuck = asyncio.create_task(hanging.in_turn.run())
    while not hanging.rounds:
        await asyncio.sleep(0.001)

    other.now += timedelta(seconds=50)
    assert await other.in_turn.run() == 0
    other.now += timedelta(seconds=5)
    assert await other.in_turn.run() == 7

    stuck.cancel()


async def test_a_clock_that_was_ahead_holds_up_no_round(installation: Installation) -> None:
    ahead, right = Worker(installation), Worker(installation)
    ahead.now += timedelta(days=400)

    assert await ahead.in_turn.run() == 7
    assert await right.in_turn.run() == 7
    assert await right.in_turn.run() == 0
