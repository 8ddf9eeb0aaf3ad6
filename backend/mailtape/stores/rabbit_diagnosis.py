"""RabbitMQ looked at from outside: its queues, one message through it, and what refusals mean.

Mail is left alone: the message that is published and consumed has a queue of its own. Into the
queue of mail goes, while somebody works on it, one that workers know to be no mail.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import (
    AMQPConnectionError,
    AuthenticationError,
    ChannelNotFoundEntity,
    ConnectionClosed,
    ProbableAuthenticationError,
)
from aiormq.exceptions import ChannelAccessRefused, ConnectionNotAllowed

from mailtape.domain.diagnosis import Check, NotRight, causes
from mailtape.domain.errors import Conflict, StoreFull
from mailtape.stores.rabbit_connection import broker_errors, connect, disconnect
from mailtape.stores.rabbit_mail import PROBE
from mailtape.stores.rabbit_topology import DELIVERY_LIMIT, RabbitTopology

_ANSWER_SECONDS = 5.0
_CLOSED_AT_OPENING = "got <Connection.Close"
"""In the driver's words: it was let in, named the virtual host, and was sent away."""
_FORGOTTEN_MS = 60_000
"""After that the broker deletes a queue of ours that nobody uses."""


@dataclass(frozen=True, slots=True)
class Queued:
    """How much a queue holds that is delivered to nobody, and how many consume from it."""

    messages: int
    consumers: int


def declared(url: str, topology: RabbitTopology) -> Check:
    """See that every queue is there and is as this release declares it."""

    async def ask() -> str:
        async with _connected(url) as connection:
            for name in (topology.queue, topology.retry, topology.parked):
                await look(connection, name)
            try:
                await topology.declare(connection)
            except Conflict as conflict:
                raise NotRight(conflict.message) from conflict
        return "Quorum queues, which refuse what is over their bound."

    return Check("has its queues as they must be", ask, decides=True)


def bounded(url: str, topology: RabbitTopology) -> Check:
    """See that the queues bear as much as is set."""

    async def ask() -> str:
        async with _connected(url) as connection:
            differences = await topology.declare(connection)
        for each in differences:
            if each.of_bound and each.queue == topology.queue:
                raise NotRight(
                    f"QUEUE_MAX_BYTES is {topology.max_bytes:,} and the queue was made with"
                    f" {_number(each.in_force)}, which goes on; to change it the queue has to be"
                    " empty and made anew, as DEPLOYMENT says."
                )
        if differences:
            each = differences[0]
            raise NotRight(
                f"{each.queue!r} at RABBITMQ_URL was made by another release: {each.argument} is"
                f" {_number(each.in_force)} and not {_number(each.wanted)}. It works; make it anew"
                " when it is empty."
            )
        return (
            f"{DELIVERY_LIMIT} deliveries of a mail; {topology.max_bytes:,} bytes, beyond which"
            " mail is refused."
        )

    return Check("has the bounds that are set", ask)


def _number(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"


def one_message(url: str, topology: RabbitTopology) -> Check:
    """Publish a message, confirmed, and consume it, in a quorum queue of its own."""

    async def ask() -> str:
        body, name = secrets.token_bytes(10_000), f"{topology.queue}.doctor-{secrets.token_hex(8)}"
        async with _connected(url) as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            queue = await channel.declare_queue(
                name,
                durable=True,
                arguments={"x-queue-type": "quorum", "x-expires": _FORGOTTEN_MS},
            )
            message = Message(body, delivery_mode=DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, name, mandatory=True)
            got = await queue.get(fail=False, timeout=_ANSWER_SECONDS)
            if got is not None:
                await got.ack()
            await queue.delete(if_unused=False, if_empty=False)
        if got is None or got.body != body:
            raise NotRight(
                "A confirmed message did not come back from RABBITMQ_URL; see the broker's log."
            )
        return "One message was published, confirmed, consumed and acknowledged."

    return Check("passes a message on", ask)


def taking(url: str, topology: RabbitTopology) -> Check:
    """See how much waits, and whether the queue of mail takes more while somebody works on it."""

    async def ask() -> str:
        async with _connected(url) as connection:
            main = await look(connection, topology.queue)
            retry = await look(connection, topology.retry)
            parked = await look(connection, topology.parked)
            if main.consumers:
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                probe = Message(b"", headers=PROBE, delivery_mode=DeliveryMode.PERSISTENT)
                try:
                    with broker_errors():
                        await channel.default_exchange.publish(
                            probe, topology.queue, mandatory=True
                        )
                except StoreFull as full:
                    raise NotRight(
                        f"The queue is full: {main.messages} mails wait. Start more `mailtape"
                        " worker`, or see in their logs why they store nothing; QUEUE_MAX_BYTES"
                        " can be changed only when the queue is empty."
                    ) from full
        return (
            f"{main.messages + retry.messages} mails wait, {parked.messages} are parked,"
            f" {main.consumers} workers listen."
        )

    return Check("would take a mail now", ask)


async def look(connection: AbstractConnection, name: str) -> Queued:
    """Count what is in a queue.

    Raises:
        NotRight: there is no such queue.
    """
    channel = await connection.channel()
    try:
        found = await channel.declare_queue(name, passive=True)
    except ChannelNotFoundEntity as error:
        raise NotRight(
            f"There is no queue {name!r} at RABBITMQ_URL; run `mailtape migrate`, or change"
            " RABBITMQ_QUEUE."
        ) from error
    await channel.close()
    told = found.declaration_result
    return Queued(told.message_count or 0, told.consumer_count or 0)


def explain(error: BaseException) -> str | None:
    """Name the setting that the driver's own error is about."""
    for each in causes(error):
        words = str(each)
        if isinstance(each, AuthenticationError | ProbableAuthenticationError):
            return "The broker at RABBITMQ_URL does not take the user and password in it."
        if isinstance(each, ConnectionNotAllowed) or _CLOSED_AT_OPENING in words:
            return (
                "The broker at RABBITMQ_URL does not let its user into the virtual host that it"
                " ends with; make the host and give the permission, or change the address."
            )
        if isinstance(each, ChannelAccessRefused):
            return (
                "The user in RABBITMQ_URL may not do there what is needed; give it the permissions"
                " to configure, write and read everything in its virtual host."
            )
        if isinstance(each, AMQPConnectionError | ConnectionClosed | OSError | TimeoutError):
            return "Nothing answers as RabbitMQ at RABBITMQ_URL; start it, or change the address."
    return None


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[AbstractConnection]:
    connection = await connect(url, "doctor")
    try:
        yield connection
    finally:
        await disconnect(connection)
