"""Announcements that go from one process to all others."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aio_pika
import pytest

import services
from fakes import an_organisation_id
from mailtape.domain.ids import OrganisationId
from mailtape.services.wakeups import Wakeups
from mailtape.stores import rabbit_wakeups
from mailtape.stores.rabbit_wakeups import RabbitWakeups

pytestmark = pytest.mark.services

SECONDS = 10


class Processes:
    """Opens what each process has: watchers, and a way to the others."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"test-{secrets.token_hex(6)}"
        self._opened: list[RabbitWakeups] = []
        self._apis: list[Wakeups] = []

    async def api(self) -> tuple[Wakeups, RabbitWakeups]:
        wakeups = Wakeups()
        opened = await self._open(wakeups, wakeups.ring, wakeups.ring_all)
        self._apis.append(wakeups)
        return wakeups, opened

    async def worker(self) -> tuple[Wakeups, RabbitWakeups]:
        return (wakeups := Wakeups()), await self._open(wakeups, None, None)

    async def _open(
        self,
        wakeups: Wakeups,
        ring: Callable[[OrganisationId], None] | None,
        ring_all: Callable[[], None] | None,
    ) -> RabbitWakeups:
        rabbit = RabbitWakeups(self.url, self.name, ring=ring, ring_all=ring_all)
        wakeups.also_tell(rabbit.announce)
        self._opened.append(rabbit)
        async with AsyncExitStack() as stack:
            woken = [
                await stack.enter_async_context(api.watch(an_organisation_id()))
                for api in self._apis
            ]
            await rabbit.start()
            for each in woken:  # here, so that no test takes this for something else
                assert await each.wait(SECONDS), "who starts wakes everybody"
        return rabbit

    async def close(self) -> None:
        for each in self._opened:
            await each.close()
        async with await aio_pika.connect(self.url) as connection:
            await (await connection.channel()).exchange_delete(f"{self.name}.wakeups")


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    opened = Processes(services.variables("rabbitmq")["RABBITMQ_URL"])
    yield opened
    await opened.close()


async def test_a_worker_wakes_the_watchers_of_an_organisation_in_every_process(
    processes: Processes,
) -> None:
    here, there = an_organisation_id(), an_organisation_id()
    apis = [(await processes.api())[0] for _ in range(2)]
    worker, _ = await processes.worker()

    for api in apis:
        async with api.watch(here) as watched, api.watch(there) as other:
            worker.announce(here)

            assert await watched.wait(SECONDS)
            assert not await other.wait(0.1)


async def test_many_announcements_at_once_all_arrive(processes: Processes) -> None:
    api, _ = await processes.api()
    worker, _ = await processes.worker()
    organisations = [an_organisation_id() for _ in range(300)]

    async def is_woken(organisation_id: OrganisationId, ready: asyncio.Semaphore) -> bool:
        async with api.watch(organisation_id) as watch:
            ready.release()
            return await watch.wait(SECONDS)

    ready = asyncio.Semaphore(0)
    watching = [asyncio.create_task(is_woken(each, ready)) for each in organisations]
    for _ in organisations:
        await ready.acquire()
    worker.announce_all(organisations)

    assert all(await asyncio.gather(*watching))


async def test_an_announcement_does_not_come_back_to_who_made_it(processes: Processes) -> None:
    api, _ = await processes.api()
    organisation_id = an_organisation_id()

    async with api.watch(organisation_id) as watch:
        api.announce(organisation_id)

        assert await watch.wait(0)
        assert not await watch.wait(0.3)


async def test_everybody_is_woken_after_a_connection_was_lost(processes: Processes) -> None:
    api, rabbit = await processes.api()
    other_api, _ = await processes.api()
    organisation_id = an_organisation_id()

    async with api.watch(organisation_id) as watch, other_api.watch(organisation_id) as other:
        rabbit._link.reopen()

        assert await watch.wait(SECONDS)
        assert await other.wait(SECONDS)  # what this one announced may have been lost too


async def test_what_a_killed_process_left_unsaid_is_made_good_by_the_next_to_start(
    processes: Processes,
) -> None:
    api, _ = await processes.api()

    async with api.watch(an_organisation_id()) as watch:
        await processes.worker()

        assert await watch.wait(SECONDS)


async def test_too_many_announcements_wake_everybody(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbit_wakeups, "_MOST_WAITING", 3)
    api, _ = await processes.api()
    worker, _ = await processes.worker()

    async with api.watch(an_organisation_id()) as watch:
        worker.announce_all([an_organisation_id() for _ in range(10)])

        assert await watch.wait(SECONDS)


async def test_announcing_holds_up_nobody_while_the_broker_is_away() -> None:
    rabbit = RabbitWakeups("amqp://guest:guest@127.0.0.1:1/", "nowhere")
    await rabbit.start()
    started = time.monotonic()

    for _ in range(20_000):
        rabbit.announce(an_organisation_id())

    assert time.monotonic() - started < 1
    assert len(rabbit._waiting) <= 10_000
    await rabbit.close()
