"""A link to a broker that lives, but whose confirmations a test can lose."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from lossy import Link, Passing

_HEAD = struct.Struct(">BHI")
"""Type, channel and length of a frame (AMQP 0-9-1, section 4.2.3); an octet ends it."""
_METHOD = 1
_ACK = struct.pack(">HH", 60, 80)
"""basic.ack, which from a broker is a confirmation."""


class Unconfirming(Link):
    """Passes everything on but, while `losing`, the confirmations of the broker."""

    def __init__(self, to: str) -> None:
        super().__init__(to)
        self.losing = Event()
        self.lost = 0
        """How many were lost; one may speak for several messages."""

    def _passing(self) -> tuple[Passing, Passing]:
        coming = bytearray()

        def back(data: bytes) -> bytes:
            passed = b""
            coming.extend(data)
            while frame := _first_frame(coming):
                del coming[: len(frame)]
                if self.losing.is_set() and _is_confirmation(frame):
                    self.lost += 1
                else:
                    passed += frame
            return passed

        return bytes, back


def _first_frame(data: bytearray) -> bytes:
    """Take the first frame; nothing when it has not come whole."""
    if len(data) < _HEAD.size:
        return b""
    end = _HEAD.size + _HEAD.unpack_from(data)[2] + 1
    return bytes(data[:end]) if len(data) >= end else b""


def _is_confirmation(frame: bytes) -> bool:
    return frame[0] == _METHOD and frame.startswith(_ACK, _HEAD.size)


@contextmanager
def unconfirming(to: str) -> Iterator[Unconfirming]:
    """Open such a link to a broker for as long as the context lasts."""
    opened = Unconfirming(to)
    try:
        yield opened
    finally:
        opened.close()
