"""Senders that keep account: what was acknowledged, what was refused, what nobody can know.

They speak SMTP over bare sockets, because a client library hides the one thing that counts here:
at which byte a connection died.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Self, TypeVar

T = TypeVar("T")

SENDER = b"shop@example.org"
RECIPIENT = b"qa@example.net"
LARGE_OCTETS = 300_000
"""More than a broker carries: it is claimed in another store meanwhile."""
_REPLY_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
_TRIES = 3000
_INSISTS = 20
_INSISTS_AFTER_SECONDS = 0.2


def insist(offer: Callable[[], T], put_off: Callable[[T], bool]) -> T:
    """Come again when nobody can tell at the moment, as senders do; gives the last answer.

    A question that names its mail is asked under the same name each time: what was held for it
    unheard is held once.
    """
    for _ in range(_INSISTS - 1):
        if not put_off(answer := offer()):
            return answer
        time.sleep(_INSISTS_AFTER_SECONDS)
    return offer()


def stuffed(raw: bytes) -> bytes:
    """Write a mail as it goes over the wire in DATA, up to the end (RFC 5321, section 4.5.2).

    What does not end with CRLF gets one: without it the final dot would not stand alone.
    """
    ended = raw if raw.endswith(b"\r\n") else raw + b"\r\n"
    if ended.startswith(b"."):
        ended = b"." + ended
    return ended.replace(b"\r\n.", b"\r\n..") + b".\r\n"


class Line:
    """One SMTP connection, spoken by hand."""

    def __init__(
        self, address: str, *, seconds: float = _REPLY_SECONDS, source: str | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection(
            (host, int(port)), seconds, None if source is None else (source, 0)
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._replies.close()
        self.socket.close()

    def reply(self) -> bytes:
        """Read a reply to its last line.

        Raises:
            OSError: the connection died before it came.
        """
        lines = b""
        while True:
            line = self._replies.readline()
            if not line.endswith(b"\r\n"):
                raise ConnectionResetError("no reply")
            lines += line
            if line[3:4] != b"-":
                return lines

    def say(self, command: bytes) -> bytes:
        """Send a line, read the reply."""
        self.socket.sendall(command + b"\r\n")
        return self.reply()

    def hello(self) -> bytes:
        """Read the greeting and, when it is one, greet back; gives what is not 2xx, or EHLO's."""
        greeting = self.reply()
        return self.say(b"EHLO client.example.org") if greeting[:1] == b"2" else greeting

    def begin(self, recipient: bytes = RECIPIENT) -> bytes:
        """Come as far as the bytes of a mail; gives the refusal, or 354."""
        reply = b""
        for command in (b"MAIL FROM:<%b>" % SENDER, b"RCPT TO:<%b>" % recipient, b"DATA"):
            reply = self.say(command)
            if reply[:1] not in b"23":
                break
        return reply

    def send(self, raw: bytes, recipient: bytes = RECIPIENT) -> bytes:
        """Send one mail; gives the last reply."""
        reply = self.begin(recipient)
        if reply[:3] != b"354":
            return reply
        self.socket.sendall(stuffed(raw))
        return self.reply()


@dataclass
class Account:
    """What became of the mails that were tried, by name."""

    attempted: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    ambiguous: set[str] = field(default_factory=set)
    """The connection died between the dot and the reply: the mail may be there, or not."""
    refusals: Counter[bytes] = field(default_factory=Counter)
    """Each reply that was no 250, and how often it came; the mail was tried again."""


@dataclass(frozen=True)
class Record:
    """What a run came to. Only `ambiguous` may be more than 0 of the last five."""

    attempt: int
    acked: int
    visible: int
    lost: int
    dup: int
    unexpected: int
    ambiguous: int

    def __str__(self) -> str:
        return str(asdict(self))


def compare(account: Account, visible: Iterable[str]) -> Record:
    """Hold what senders were told against the names that readers see."""
    seen = Counter(visible)
    return Record(
        attempt=len(account.attempted),
        acked=len(account.acknowledged),
        visible=seen.total(),
        lost=len(account.acknowledged - seen.keys()),
        dup=seen.total() - len(seen),
        unexpected=len(seen.keys() - account.acknowledged - account.ambiguous),
        ambiguous=len(account.ambiguous),
    )


class Senders:
    """Several connections that take mails from one pile, until each has been told yes or nothing.

    A mail that was refused, or whose connection died before its dot, is tried again; one whose
    connection died after it is not: it is ambiguous.
    """

    def __init__(
        self,
        address: str,
        mails: Iterable[tuple[str, bytes]],
        *,
        connections: int = 4,
        per_second: float = 0,
        recipient: bytes = RECIPIENT,
    ) -> None:
        self._recipient = recipient
        self.connections = connections
        """At most so many mails are on their way at a time."""
        self.account = Account()
        self._address = address
        self._mails = iter(mails)
        self._pace = _pace(per_second)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._work,), daemon=True)
            for _ in range(connections)
        ]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def enough(self) -> None:
        """Take no more mails from the pile, and give up those that are refused."""
        self._stopping.set()

    def join(self, seconds: float) -> Account:
        """Wait until the pile is gone; raises what went wrong in a sender."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.enough()
                raise AssertionError(f"still sending after {seconds:g} s: {self.account.refusals}")
        if self._failures:
            raise self._failures[0]
        return self.account

    def wait_for(self, acknowledged: int, seconds: float = 60) -> None:
        """Wait until so many were acknowledged, or all is sent."""
        deadline = time.monotonic() + seconds
        while len(self.account.acknowledged) < acknowledged:
            if not any(thread.is_alive() for thread in self._threads):
                return
            assert time.monotonic() < deadline, "the senders do not get on"
            time.sleep(0.002)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failures.append(error)
            raise

    def _next(self) -> tuple[str, bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            mail = next(self._mails, None)
            if mail is not None:
                next(self._pace)
                self.account.attempted.add(mail[0])
            return mail

    def _work(self) -> None:
        line: Line | None = None
        try:
            while (mail := self._next()) is not None:
                name, raw = mail
                for _ in range(_TRIES):
                    line, done = self._try(line, name, raw)
                    if done or self._stopping.is_set():
                        break
                    time.sleep(_PAUSE_SECONDS)
        finally:
            if line is not None:
                line.close()

    def _try(self, line: Line | None, name: str, raw: bytes) -> tuple[Line | None, bool]:
        """Try to get one mail rid of; gives the connection, if it is still good, and whether."""
        sent = False
        try:
            if line is None:
                line = Line(self._address)
                reply = line.hello()
                if reply[:3] != b"250":
                    return self._refused(line, reply), False
            reply = line.begin(self._recipient)
            if reply[:3] == b"354":
                sent = True
                line.socket.sendall(stuffed(raw))
                reply = line.reply()
        except OSError:
            if line is not None:
                line.close()
            if sent:
                self.account.ambiguous.add(name)
            return None, sent
        if reply[:3] == b"250":
            self.account.acknowledged.add(name)
            return line, True
        return self._refused(line, reply), False

    def _refused(self, line: Line, reply: bytes) -> Line | None:
        self.account.refusals[reply] += 1
        if reply[:3] == b"421":
            line.close()
            return None
        with contextlib.suppress(OSError):
            line.say(b"RSET")
        return line


def numbered(
    count: int, *, size: int = 2_000, prefix: str = "mail", large_each: int = 0
) -> Iterator[tuple[str, bytes]]:
    """Make mails, each with a subject of its own that is also its name; one in so many is large."""
    for number in range(count):
        name = f"{prefix}-{number}"
        head = f"From: shop@example.org\r\nTo: qa@example.net\r\nSubject: {name}\r\n\r\n"
        line = f"{name} thanks you for your order number {number}.\r\n"
        is_large = large_each and number % large_each == 0
        octets = LARGE_OCTETS if is_large else size
        yield name, (head + line * (octets // len(line) + 1)).encode()


def _pace(per_second: float) -> Iterator[None]:
    """Yield at so many moments a second by the clock, whatever happens in between."""
    begin = time.monotonic()
    number = 0
    while True:
        if per_second:
            time.sleep(max(0.0, begin + number / per_second - time.monotonic()))
        number += 1
        yield
