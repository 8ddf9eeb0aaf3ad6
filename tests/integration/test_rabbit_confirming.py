"""Publishing with confirmations, on a channel of the running broker."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue
from aiormq import Channel, Connection, spec
from aiormq.abc import ChannelFrame
from aiormq.exceptions import ChannelInvalidStateError, DeliveryError, PublishError

import services
from mailtape.stores.rabbit_confirming import ConfirmingChannel

pytestmark = [pytest.mark.services]

SECONDS = 20
"""For what takes a fraction of one."""

_numbers = itertools.count()


@dataclass
class Publisher:
    """A channel with confirmations, and a queue to publish to."""

    channel: Channel
    confirming: ConfirmingChannel
    queue: AbstractQueue

    async def publish(self, body: bytes, queue: str = "") -> bool:
        properties = spec.Basic.Properties(message_id=f"a-{next(_numbers)}")
        async with asyncio.timeout(SECONDS):
            return await self.confirming.publish(body, properties, "", queue or self.queue.name)

    async def get(self) -> bytes:
        message = await self.queue.get(timeout=SECONDS, no_ack=True)
        assert message is not None
        return message.body

    def cut(self) -> None:
        """Ends the connection as the death of the broker does."""
        writer = cast("Connection", self.channel.connection)._writer_task.task.get_coro().cr_frame
        writer.f_locals["writer"].transport.abort()

    def frames(self) -> list[ChannelFrame]:
        """Notes from now on what is handed to the connection; each is a write of its own."""
        seen: list[ChannelFrame] = []
        put = self.channel.write_queue.put_nowait

        def noted(frame: ChannelFrame) -> None:
            seen.append(frame)
            put(frame)

        self.channel.write_queue.put_nowait = noted  # type: ignore[method-assign]
        return seen


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    url = services.variables("rabbitmq")["RABBITMQ_URL"]
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        queue = await channel.declare_queue(
            exclusive=True, arguments={"x-max-length": 40, "x-overflow": "reject-publish"}
        )
        underlay = cast("Channel", await channel.get_underlay_channel())
        yield Publisher(underlay, ConfirmingChannel(underlay), queue)


async def test_what_is_published_in_one_turn_is_one_write_and_comes_in_order(
    publisher: Publisher,
) -> None:
    written = publisher.frames()

    confirmed = await asyncio.gather(*(publisher.publish(b"%d" % n) for n in range(30)))

    assert confirmed == [True] * 30
    assert len(written) == 1
    assert [await publisher.get() for _ in range(30)] == [b"%d" % n for n in range(30)]


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_body_of_several_frames_comes_back_octet_for_octet(
    publisher: Publisher, more: int
) -> None:
    bodies = [
        secrets.token_bytes(max(0, frames * publisher.channel.max_content_size + more))
        for frames in range(3)
    ]

    for body in bodies:
        assert await publisher.publish(body)
        assert await publisher.get() == body


async def test_who_is_refused_or_routed_nowhere_hears_it_and_the_others_do_not(
    publisher: Publisher,
) -> None:
    nowhere = f"none-{secrets.token_hex(8)}"
    full = [publisher.publish(b"mail") for _ in range(42)]

    outcomes = await asyncio.gather(
        publisher.publish(b"lost", nowhere), *full, return_exceptions=True
    )

    assert isinstance(outcomes[0], PublishError)
    assert outcomes.count(True) >= 40
    assert {type(each) for each in outcomes[1:]} == {bool, DeliveryError}


async def test_a_message_that_cannot_be_written_leaves_the_channel_as_it_was(
    publisher: Publisher,
) -> None:
    with pytest.raises(TypeError, match="maximum length"):
        await publisher.publish(b"mail", "q" * 256)

    assert await publisher.publish(b"mail")
    assert await publisher.get() == b"mail"


async def test_who_waits_when_the_connection_is_lost_is_told(publisher: Publisher) -> None:
    waiting = [asyncio.create_task(publisher.publish(b"mail")) for _ in range(3)]
    await asyncio.sleep(0)  # they have handed it over, and nothing has been sent

    publisher.cut()

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in outcomes} == {ChannelInvalidStateError}
    with pytest.raises(ChannelInvalidStateError):
        await publisher.publish(b"mail")


async def test_more_than_a_connection_takes_at_once_waits_until_it_is_sent(
    publisher: Publisher,
) -> None:
    written = publisher.frames()
    bodies = [bytes([n]) * 400_000 for n in range(8)]

    confirmed = await asyncio.gather(*map(publisher.publish, bodies))

    assert confirmed == [True] * 8
    assert max(len(each.payload) for each in written) < 1_300_000
    assert [await publisher.get() for _ in bodies] == bodies
