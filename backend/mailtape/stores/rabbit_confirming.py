"""Publishing over one channel with confirmations: what is published in one turn is one write.

Of the driver's channel we use what reads: it settles each future in `confirmations` when the broker
confirms, refuses or returns its message. Its own publishing writes every message by itself, in
locks, timers and futures of its own, and takes twice as long over a mail.
"""

import asyncio
import struct

from aiormq import Channel, spec
from aiormq.abc import ChannelFrame
from aiormq.exceptions import ChannelInvalidStateError
from pamqp import frame
from pamqp.header import ContentHeader

_FRAME = struct.Struct(">BHI")
_BODY = 3
_END = b"\xce"

_MOST_UNDRAINED = 2**20
"""Octets that are handed to the connection before all wait until it has sent them. Waiting each
time would send every mail alone; never waiting would pile them up before a broker that has died,
whose mails are given up by their senders and not by the connection.
"""
_AGAIN_SECONDS = 0.01
"""The connection's own queue is full for as long as the broker does not read."""


class ConfirmingChannel:
    """Publishes on a channel with publisher confirms, which nobody else may publish on."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._methods: dict[tuple[str, str], bytes] = {}
        self._unsent: list[bytes] = []
        self._undrained = 0
        self._drained: asyncio.Future[None] | None = None
        self._unconfirmed: set[asyncio.Future[object]] = set()
        channel.closing.add_done_callback(self._lost)

    async def publish(
        self, body: bytes, properties: spec.Basic.Properties, exchange: str, routing_key: str
    ) -> bool:
        """Publish a mandatory message; tell whether the broker has confirmed it.

        Its `message_id` must not be under way already.

        Raises:
            DeliveryError: the broker refused it.
            PublishError: it could be routed nowhere.
            ChannelInvalidStateError: the channel is closed; it may have arrived.
        """
        while self._drained is not None:
            await asyncio.wait([self._drained])
        channel = self._channel
        if channel.is_closed:
            raise ChannelInvalidStateError("The channel is closed.")
        frames = self._frames(body, properties, exchange, routing_key)
        name = str(properties.message_id)
        channel.delivery_tag += 1
        confirmation = asyncio.get_running_loop().create_future()
        channel.confirmations[channel.delivery_tag] = confirmation
        channel.message_id_delivery_tag[name] = channel.delivery_tag
        self._unconfirmed.add(confirmation)
        try:
            self._write(frames, len(body))
            return isinstance(await confirmation, spec.Basic.Ack)
        finally:
            self._unconfirmed.discard(confirmation)
            del channel.message_id_delivery_tag[name]

    def _frames(
        self, body: bytes, properties: spec.Basic.Properties, exchange: str, routing_key: str
    ) -> list[bytes]:
        number, most = self._channel.number, self._channel.max_content_size
        header = ContentHeader(body_size=len(body), properties=properties)
        frames = [self._method(exchange, routing_key), frame.marshal(header, number)]
        for start in range(0, len(body), most):
            part = body[start : start + most]
            frames += (_FRAME.pack(_BODY, number, len(part)), part, _END)
        return frames

    def _method(self, exchange: str, routing_key: str) -> bytes:
        """Write what comes before a message; a channel publishes to few places."""
        method = self._methods.get((exchange, routing_key))
        if method is None:
            publish = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
            method = frame.marshal(publish, self._channel.number)
            self._methods[exchange, routing_key] = method
        return method

    def _write(self, frames: list[bytes], octets: int) -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent += frames
        self._undrained += octets
        if self._undrained > _MOST_UNDRAINED:
            self._undrained = 0
            self._drained = self._channel.create_future()  # which ends with the channel, too
            self._drained.add_done_callback(self._has_drained)

    def _send(self) -> None:
        """Hand over what was published in this turn, or gathered while there was no room."""
        if self._channel.is_closed:
            return
        queue = self._channel.write_queue
        if queue.full():
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._send)
            return
        written, self._unsent = b"".join(self._unsent), []
        queue.put_nowait(ChannelFrame(written, should_close=False, drain_future=self._drained))

    def _has_drained(self, _: asyncio.Future[None]) -> None:
        self._drained = None

    def _lost(self, _: asyncio.Future[None]) -> None:
        """Tell all who wait that the channel is closed; the driver knows nothing of them."""
        for confirmation in self._unconfirmed:
            if not confirmation.done():
                confirmation.set_exception(ChannelInvalidStateError("The channel was closed."))
