"""A link between two programs that a test can cut."""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_END_OF_MAIL = b"\r\n.\r\n"


class Link:
    """Passes connections on to an address, byte for byte, until it is told to do otherwise."""

    def __init__(self, to: str, *, slow_seconds: float = 0) -> None:
        """Pass on to this address; each new connection takes so long."""
        self._slow_seconds = slow_seconds
        host, _, port = to.rpartition(":")
        self._to = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.cut = threading.Event()
        """While set, each connection is closed as soon as it is made."""
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
        tail, ended = b"", False
        with selectors.DefaultSelector() as both:
            both.register(near, selectors.EVENT_READ, far)
            both.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in both.select():
                    source, target = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is near:
                        ended = _END_OF_MAIL in tail + data  # commands may follow at once
                        tail = (tail + data)[1 - len(_END_OF_MAIL) :]
                    elif ended and self._to_swallow:
                        self._to_swallow -= 1
                        self.swallowed += 1
                        return
                    target.sendall(data)


@contextmanager
def link(to: str, *, slow_seconds: float = 0) -> Iterator[Link]:
    """Open a link to an address for as long as the context lasts."""
    opened = Link(to, slow_seconds=slow_seconds)
    try:
        yield opened
    finally:
        opened.close()
