"""What stands at the broker, and why each queue is declared as it is.

    NAME          accepted mail; what is delivered too often goes to NAME.dead
    NAME.retry    mail that failed, until its time to live is over and it goes back to NAME
    NAME.parked   mail that waits for a person
    NAME.dead     exchange in front of NAME.parked
    NAME.late     exchange that leads to whoever holds mail that was accepted a while ago
    NAME.looking  there while a process looks into NAME.parked, and its own; never has a message

The first three are quorum queues: every mail is in a synced log before it is confirmed. NAME
refuses what is over its bound, so that the sender hears of it and nothing is dropped for something
newer; only then is dead-lettering done at least once, which is to say confirmed by the next queue.

A broker never changes the arguments of a queue. How much it holds and how often it delivers may be
other than we would declare it, after a setting was changed or by another release: then the queue is
used as it is, and that is told. Whatever else differs could lose mail, and is refused.

A broker counts a delivery that ended with its channel against every mail which that worker held, so
the limit is far over what innocent mail may meet: 30 killed workers, or a store that is down for
weeks (a worker keeps what it cannot store, and the broker takes it back every half an hour, 336
times a week). A mail that kills its parser has its own few tries; this limit is for one that kills
the process around it.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from mailtape.domain.errors import Conflict

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 3.0
"""RabbitMQ notes a new quorum queue on disk half a second after it was declared, on a busy machine
later. A node that is killed before that comes back without what it had confirmed."""

DELIVERY_LIMIT = 1000
_NO_LIMIT = 2**31 - 1
"""Looking at a parked mail counts as a delivery, and from RabbitMQ 4.0 no limit means twenty."""

_BOUND = "x-max-length-bytes"
_BORNE = frozenset({_BOUND, "x-delivery-limit"})
"""Arguments that may differ: with any other number nothing is lost."""
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)'.* but current is"
    r" (?:none|(?:the value )?'(?P<number>[0-9]+)')",
    re.DOTALL,
)
"""The broker's words; of several arguments that differ it names one."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An argument of a queue that is other than we would declare it; None: without it."""

    queue: str
    argument: str
    wanted: int | None
    in_force: int | None

    @property
    def of_bound(self) -> bool:
        """Whether it is about how much the queue holds."""
        return self.argument == _BOUND


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

    @property
    def looking(self) -> str:
        """The exclusive queue of the process that looks at parked mail."""
        return f"{self.queue}.looking"

    async def declare(self, connection: AbstractConnection) -> list[Difference]:
        """Make what is not there; what is there stays as it is, and is told where it differs.

        Raises:
            Conflict: something of that name is there that could lose mail.
        """
        async with connection.channel() as channel:
            await channel.declare_exchange(self.dead, "fanout", durable=True)
            await channel.declare_exchange(self.late, "fanout", durable=True)
        new = [name for name in self.arguments if not await _exists(connection, name)]
        differences: list[Difference] = []
        for name, arguments in self.arguments.items():
            differences += await _declare_queue(connection, name, arguments)
        async with connection.channel() as channel:
            parked = await channel.get_queue(self.parked, ensure=False)
            await parked.bind(self.dead, routing_key="")
        if new:
            await asyncio.sleep(self.settle_seconds)
        for each in differences:
            log.warning(
                "rabbitmq.declared_otherwise",
                queue=each.queue,
                argument=each.argument,
                wanted=each.wanted,
                in_force=each.in_force,
            )
        return differences

    @property
    def arguments(self) -> dict[str, dict[str, Any]]:
        """What each queue is declared with, in the order in which they must be there."""
        quorum = {"x-queue-type": "quorum"}
        confirmed = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        return {
            self.parked: {**quorum, "x-delivery-limit": _NO_LIMIT},
            self.queue: {
                **quorum,
                "x-delivery-limit": DELIVERY_LIMIT,
                _BOUND: self.max_bytes,
                "x-dead-letter-exchange": self.dead,
                **confirmed,
            },
            self.retry: {
                **quorum,
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
) -> list[Difference]:
    """Declare a queue, or find by trying what of that which may differ is otherwise there."""
    differences: dict[str, Difference] = {}
    while True:
        in_force = {each.argument: each.in_force for each in differences.values()}
        declared = {
            argument: value
            for argument, value in (arguments | in_force).items()
            if value is not None
        }
        channel: AbstractChannel = await connection.channel()
        try:
            await channel.declare_queue(name, durable=True, arguments=declared)
        except ChannelPreconditionFailed as error:
            found = _INEQUIVALENT.search(str(error.args[0]))
            if found is None or found["argument"] not in _BORNE - differences.keys():
                raise Conflict(
                    f"The queue {name!r} at RABBITMQ_URL is declared otherwise: {error.args[0]}."
                    " Empty and delete it, or set another RABBITMQ_QUEUE.",
                    code="queue_declared_otherwise",
                ) from error
            argument, number = found["argument"], found["number"]
            differences[argument] = Difference(
                name, argument, arguments.get(argument), None if number is None else int(number)
            )
        else:
            await channel.close()
            return list(differences.values())
