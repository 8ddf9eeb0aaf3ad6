"""A link to RabbitMQ whose broker has stopped to read."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractConnection

import lossy
import services
from lossy import Link
from mailtape.stores import rabbit_connection
from mailtape.stores.rabbit_connection import RabbitLink

pytestmark = pytest.mark.services

CLOSE_SECONDS = 0.3
OCTETS = 16 * 2**20
"""More than the system keeps of what is sent and not read."""


@pytest.fixture(autouse=True)
def close_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbit_connection, "_CLOSE_SECONDS", CLOSE_SECONDS)


@pytest.fixture
def url() -> str:
    return services.variables("rabbitmq")["RABBITMQ_URL"]


@pytest.fixture
def wire(url: str) -> Iterator[Link]:
    with lossy.link(urlsplit(url).netloc.rpartition("@")[2]) as link:
        yield link


@pytest.fixture
async def connected(url: str, wire: Link) -> AsyncIterator[RabbitLink]:
    parts = urlsplit(url)
    through = parts._replace(netloc=parts.netloc.rpartition("@")[0] + "@" + wire.address)
    link = RabbitLink(through.geturl(), "being tested", _open)
    await link.start()
    yield link
    await link.close()


async def _open(connection: AbstractConnection) -> AbstractChannel:
    return await connection.channel()


@contextlib.asynccontextmanager
async def saying_much(link: RabbitLink, wire: Link) -> AsyncIterator[None]:
    """Has so much unsent that the rest waits in the process."""
    wire.deaf.set()
    publish = asyncio.create_task(
        link.channel.default_exchange.publish(Message(bytes(OCTETS)), "nobody")
    )
    await asyncio.sleep(0.2)
    wire.deaf.clear()
    try:
        yield
    finally:
        publish.cancel()
        await asyncio.gather(publish, return_exceptions=True)


async def test_leaving_a_broker_that_does_not_read_is_bounded(
    connected: RabbitLink, wire: Link
) -> None:
    async with saying_much(connected, wire):
        started = time.monotonic()

        await connected.close()

        assert time.monotonic() - started < CLOSE_SECONDS + 1


async def test_a_connection_that_is_not_read_from_is_replaced(
    connected: RabbitLink, wire: Link
) -> None:
    async with saying_much(connected, wire):
        lost = connected.channel

        connected.reopen()

        async with asyncio.timeout(CLOSE_SECONDS + rabbit_connection._RECONNECT_SECONDS + 2):
            while connected._channel in (None, lost):
                await asyncio.sleep(0.02)
    assert not connected.channel.is_closed
