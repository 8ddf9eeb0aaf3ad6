"""Announcements from process to process, by a fanout exchange of RabbitMQ.

An announcement names organisations whose watchers should look again, and nothing else. It is said
once and not confirmed, never waited for, and holds up nobody. What may have been lost is made good
by waking everybody once: here after our own connection was away, and everywhere after that of
someone who had announcements to make, and when somebody starts, perhaps in the place of one who
was killed with announcements unsaid.
"""

import asyncio
import secrets
from collections.abc import Callable

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from mailtape.background import lasting
from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.stores.rabbit_connection import ANSWER_SECONDS, RabbitLink, broker_errors

_ID_OCTETS = 16
_MOST_WAITING = 10_000
"""Organisations; when more are to be announced, everybody is woken instead."""

_AGAIN_SECONDS = 1.0

_MOST_UNREAD = 10_000
"""Announcements that wait for a process which does not read; it loses the oldest."""


class RabbitWakeups:
    """Says what happened here to all other processes, and hears it of them.

    A process without watchers, such as a worker, gives no bells and only speaks.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        *,
        ring: Callable[[OrganisationId], None] | None = None,
        ring_all: Callable[[], None] | None = None,
    ) -> None:
        self._exchange = f"{queue}.wakeups"
        self._process = secrets.token_hex(8)
        self._ring = ring
        self._ring_all = ring_all
        self._link = RabbitLink(url, f"waking {queue}", self._open, self._say_all)
        self._waiting: set[OrganisationId] = set()
        self._all_waits = False
        self._anything = asyncio.Event()
        self._saying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, or keep trying to; then wake everybody."""
        await self._link.start()
        self._say_all()
        self._saying = lasting(self._say(), "rabbitmq announcements")

    async def close(self) -> None:
        """Say what is left to say, for as long as a question may take, and leave."""
        if self._saying is not None:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._say_what_waits()
            except (Unavailable, TimeoutError):
                pass  # the others are rung when they, or somebody else, come back
            self._saying.cancel()
            await asyncio.gather(self._saying, return_exceptions=True)
        await self._link.close()

    def announce(self, organisation_id: OrganisationId) -> None:
        """Wake the watchers of an organisation in all other processes, soon."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.add(organisation_id)
        else:
            self._all_waits = True
        self._anything.set()

    def _say_all(self) -> None:
        """Make good what was said into a connection that broke, or by one who is no more."""
        self._all_waits = True
        self._anything.set()

    async def _open(self, connection: AbstractConnection) -> AbstractChannel:
        channel = await connection.channel(publisher_confirms=False)
        await channel.declare_exchange(self._exchange, "fanout", durable=True)
        if self._ring is not None:
            queue = await channel.declare_queue(
                exclusive=True,
                auto_delete=True,
                arguments={"x-queue-type": "classic", "x-max-length": _MOST_UNREAD},
            )
            await queue.bind(self._exchange, routing_key="")
            await queue.consume(self._hear, no_ack=True)
        if self._ring_all is not None:
            self._ring_all()  # only now: what is announced from here on is heard
        return channel

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        if message.app_id == self._process:  # they have been rung already
            return
        if not message.body and self._ring_all is not None:
            self._ring_all()
        if self._ring is not None:
            for start in range(0, len(message.body), _ID_OCTETS):
                self._ring(OrganisationId(message.body[start : start + _ID_OCTETS]))

    async def _say(self) -> None:
        """Say what gathers, in one message for all that came while the last was on its way."""
        while True:
            await self._anything.wait()
            try:
                await self._say_what_waits()
            except Unavailable:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _say_what_waits(self) -> None:
        """Say it, or keep it for the next time.

        Raises:
            Unavailable: it was not said.
        """
        if not self._waiting and not self._all_waits:
            return
        body = b"" if self._all_waits else b"".join(self._waiting)
        channel = self._link.channel
        self._waiting.clear()
        self._all_waits = False
        self._anything.clear()
        try:
            with broker_errors():
                exchange = await channel.get_exchange(self._exchange, ensure=False)
                async with asyncio.timeout(ANSWER_SECONDS):
                    await exchange.publish(
                        Message(
                            body,
                            delivery_mode=DeliveryMode.NOT_PERSISTENT,
                            app_id=self._process,
                        ),
                        "",
                        mandatory=False,
                    )
        except BaseException:
            self._say_all()
            raise
