"""A link between two programs that a test can cut."""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Passing: TypeAlias = Callable[[bytes], bytes | None]
"""Gives what goes on of what came; None ends the connection."""

_END_OF_MAIL = b"\r\n.\r\n"
_RECEIVED_OCTETS = 256 * 1024
"""What the system takes for a connection that is not read from; else it may be 32 MiB."""


class Link:
    """Passes connections on to an address, byte for byte, until it is told to do otherwise."""

    def __init__(self, to: str, *, slow_seconds: float = 0) -> None:
        """Pass on to this address; each new connection takes so long."""
        self._slow_seconds = slow_seconds
        host, _, port = to.rpartition(":")
        self._to = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_OCTETS)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.cut = threading.Event()
        """While set, each connection is closed as soon as it is made."""
        self.deaf = threading.Event()
        """While set, whoever says something is not listened to any more; answers still pass."""
        self.refused = 0
        """How many were."""
        self.swallowed = 0
        """How many replies to a mail were lost."""
        self._to_swallow = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self, replies: int) -> None:
        """Lose the next replies to a mail, and the connection with each."""
        self._to_swallow += replies

    def close(self) -> None:
        """Take no more connections."""
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            if self.cut.is_set():
                self.refused += 1
                return
            time.sleep(self._slow_seconds)
            with socket.create_connection(self._to) as far:
                self._pump(near, far)

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        there, back = self._passing()
        with selectors.DefaultSelector() as both:
            both.register(near, selectors.EVENT_READ, (far, there))
            both.register(far, selectors.EVENT_READ, (near, back))
            while True:
                for key, _ in both.select():
                    source, (target, passing) = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    if source is near and self.deaf.is_set():
                        both.unregister(near)
                        continue
                    data = source.recv(65536)
                    passed = passing(data) if data else None
                    if passed is None:
                        return
                    target.sendall(passed)

    def _passing(self) -> tuple[Passing, Passing]:
        """Make what looks at the bytes of one connection, there and back."""
        tail, ended = b"", False

        def there(data: bytes) -> bytes:
            nonlocal tail, ended
            ended = _END_OF_MAIL in tail + data  # commands may follow at once
            tail = (tail + data)[1 - len(_END_OF_MAIL) :]
            return data

        def back(data: bytes) -> bytes | None:
            if not (ended and self._to_swallow):
                return data
            self._to_swallow -= 1
            self.swallowed += 1
            return None

        return there, back


@contextmanager
def link(to: str, *, slow_seconds: float = 0) -> Iterator[Link]:
    """Open a link to an address for as long as the context lasts."""
    opened = Link(to, slow_seconds=slow_seconds)
    try:
        yield opened
    finally:
        opened.close()
