"""RabbitMQ for the contract suites: queues of the test's own on the running broker."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika

import services
from contract import mongo
from mailtape.ports.claims import Claims
from mailtape.ports.queue import Queue
from mailtape.stores.rabbit_queue import RabbitQueue

SIDES = ("", ".retry", ".parked")
EXCHANGES = (".dead", ".late", ".wakeups")


class RabbitQueues:
    """Opens the same queue again and again, as restarted processes would, or several at a time."""

    def __init__(self, claims: Claims, url: str, settle_seconds: float) -> None:
        self.url = url
        self.settle_seconds = settle_seconds
        self.name = f"test-{secrets.token_hex(6)}"
        self.claims = claims
        self._opened: list[RabbitQueue] = []

    async def open(
        self, max_bytes: int = 2**30, *, prefetch: int = 300, publish_seconds: float = 10
    ) -> RabbitQueue:
        """Opens it once more."""
        queue = RabbitQueue(
            self.url,
            self.name,
            self.claims,
            max_bytes=max_bytes,
            prefetch=prefetch,
            publish_seconds=publish_seconds,
            settle_seconds=self.settle_seconds,
        )
        self._opened.append(queue)
        await queue.start()
        return queue

    async def reopen(self, max_bytes: int = 2**30) -> RabbitQueue:
        """Closes all that were opened, and opens it once more."""
        await self.close()
        return await self.open(max_bytes)

    async def close(self) -> None:
        while self._opened:
            await self._opened.pop().close()

    async def delete(self) -> None:
        async with await aio_pika.connect(self.url) as connection:
            channel = await connection.channel()
            for side in SIDES:
                await channel.queue_delete(self.name + side)
            for exchange in EXCHANGES:
                await channel.exchange_delete(self.name + exchange)


@asynccontextmanager
async def open_queues(
    url: str | None = None, settle_seconds: float = 0
) -> AsyncIterator[RabbitQueues]:
    """Gives a queue of a new name; what was made of it is removed from the broker of all tests.

    A broker of a test's own takes its queues with it. RabbitMQ 3.10 must not delete one soon after
    it was started again: its log of all quorum queues can fall with it, and every later one refuses
    what is published (rabbitmq-server issue 4512).
    """
    is_shared = url is None
    url = url or services.variables("rabbitmq")["RABBITMQ_URL"]
    async with mongo.open_claims() as claims:
        queues = RabbitQueues(claims, url, settle_seconds)
        try:
            yield queues
        finally:
            await queues.close()
            if is_shared:
                await queues.delete()


async def lose_connection(queue: Queue) -> None:
    """Ends the connection that a queue consumes by, and so its leases."""
    assert isinstance(queue, RabbitQueue)
    lost = queue._consuming._link
    lost.reopen()
    async with asyncio.timeout(10):
        while queue._consuming.leased:
            await asyncio.sleep(0.01)
