"""What stands at the broker, and why each queue is declared as it is.

    NAME          accepted mail; what is delivered too often goes to NAME.dead
    NAME.retry    mail that failed, until its time to live is over and it goes back to NAME
    NAME.parked   mail that waits for a person
    NAME.dead     exchange in front of NAME.parked
    NAME.late     exchange that leads to whoever holds mail which may be as old as an orphan

All three are quorum queues: every mail is in a synced log before it is confirmed. NAME refuses what
is over its bound, so that the sender hears of it and nothing is dropped for something newer; only
then is dead-lettering done at least once, which is to say confirmed by the next queue.

A broker counts a delivery that ended with its channel against every mail which that worker held, so
the limit is far over what innocent mail may meet: 30 killed workers, or a store that is down for
weeks (a worker keeps what it cannot store, and the broker takes it back every half an hour, 336
times a week). A mail that kills its parser has its own few tries; this limit is for one that kills
the process around it.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from mailtape.domain.errors import Conflict

SETTLE_SECONDS = 3.0
"""RabbitMQ notes a new quorum queue on disk half a second after it was declared, on a busy machine
later. A node that is killed before that comes back without what it had confirmed."""

DELIVERY_LIMIT = 1000
_NO_LIMIT = 2**31 - 1
"""Looking at a parked mail counts as a delivery, and from RabbitMQ 4.0 no limit means twenty."""


@dataclass(frozen=True, slots=True)
class RabbitTopology:
    """The names and the declarations of one queue of accepted mail."""

    queue: str
    max_bytes: int
    """How much mail may wait in the queue itself, in bytes."""
    settle_seconds: float = SETTLE_SECONDS
    """How long a new queue is left alone before anything is put in."""

    @property
    def retry(self) -> str:
        """Where failed mail waits for its next try."""
        return f"{self.queue}.retry"

    @property
    def parked(self) -> str:
        """Where mail waits for a person."""
        return f"{self.queue}.parked"

    @property
    def dead(self) -> str:
        """The exchange that parks what the broker gives up."""
        return f"{self.queue}.dead"

    @property
    def late(self) -> str:
        """The exchange that is bound to something while anybody holds late mail."""
        return f"{self.queue}.late"

    async def declare(self, connection: AbstractConnection) -> None:
        """Make what is not there; what is there stays as it is.

        Raises:
            Conflict: something of that name is there and is declared otherwise.
        """
        async with connection.channel() as channel:
            await channel.declare_exchange(self.dead, "fanout", durable=True)
            await channel.declare_exchange(self.late, "fanout", durable=True)
        new = [name for name in self._queues() if not await _exists(connection, name)]
        for name, arguments in self._queues().items():
            await _declare_queue(connection, name, arguments)
        async with connection.channel() as channel:
            parked = await channel.get_queue(self.parked, ensure=False)
            await parked.bind(self.dead, routing_key="")
        if new:
            await asyncio.sleep(self.settle_seconds)

    def _queues(self) -> dict[str, dict[str, Any]]:
        confirmed = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        return {
            self.parked: {"x-delivery-limit": _NO_LIMIT},
            self.queue: {
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-max-length-bytes": self.max_bytes,
                "x-dead-letter-exchange": self.dead,
                **confirmed,
            },
            self.retry: {
                "x-delivery-limit": _NO_LIMIT,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.queue,
                **confirmed,
            },
        }


async def _exists(connection: AbstractConnection, name: str) -> bool:
    channel: AbstractChannel = await connection.channel()
    try:
        await channel.declare_queue(name, passive=True)
    except ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


async def _declare_queue(
    connection: AbstractConnection, name: str, arguments: dict[str, Any]
) -> None:
    channel: AbstractChannel = await connection.channel()
    try:
        await channel.declare_queue(
            name, durable=True, arguments={"x-queue-type": "quorum", **arguments}
        )
    except ChannelPreconditionFailed as error:
        raise Conflict(
            f"The queue {name!r} at RABBITMQ_URL is declared otherwise: {error.args[0]}. Empty and"
            " delete it, or set another RABBITMQ_QUEUE.",
            code="queue_declared_otherwise",
        ) from error
    await channel.close()
