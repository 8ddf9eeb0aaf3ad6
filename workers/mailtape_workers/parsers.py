"""Parsing processes, seen from their parent.

A `Parser` is one child process (`child.py`) and the thread that talks to it. The parent holds the
deadline: a child that is late is killed, and the next call starts a new one.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import msgspec

from mailtape.domain.errors import Unavailable
from mailtape.mime.limits import DEADLINE_SECONDS, Limits
from mailtape.mime.pack import Packed

_ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=2000"}
"""The tree of one HTML mail outgrows the C library's cache of freed blocks: a twentieth of the time
of a mail goes with that. Other C libraries pass over it."""

_FAREWELL_SECONDS = 1.0
"""For a child to finish the mail in its hands when its parent hangs up."""
_FAREWELL_LOOKS = 50
_KILL_SECONDS = 1.0
"""For the system to end a child; one that waits for a lost disk may take for ever."""

_DECODE = msgspec.msgpack.Decoder(list[Packed]).decode
_ENCODE = msgspec.msgpack.Encoder().encode


class ParserDied(Exception):
    """The child ended, or was killed at the deadline, before it answered."""


@dataclass(frozen=True, slots=True)
class ParserSettings:
    """What a parsing process may use."""

    deadline_seconds: float = DEADLINE_SECONDS
    """For one batch."""
    memory_bytes: int = 1 << 30
    """Address space: a bound on allocations, far over what the limits of parsing allow."""
    limits: Limits = field(default_factory=Limits)


class Parser:
    """One parsing process; calls come one at a time."""

    def __init__(self, settings: ParserSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parser")
        self._free = asyncio.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._connection: Connection | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._child.pid if self._child else None

    async def understand(self, mails: Sequence[bytes]) -> list[Packed]:
        """Understand raw mails, in order.

        Raises:
            ParserDied: one of them, or all together, were too much for the child.
            Unavailable: no child can be started; the mails have nothing to do with it.
        """
        async with self._free:
            loop = asyncio.get_running_loop()
            deadline = loop.call_later(self._settings.deadline_seconds, self._kill)
            try:
                return await loop.run_in_executor(self._thread, self._exchange, mails)
            except (EOFError, OSError, msgspec.MsgspecError) as error:
                await loop.run_in_executor(self._thread, self._end)
                raise ParserDied from error
            finally:
                deadline.cancel()

    async def start(self) -> None:
        """Start the child and wait until it can work, so that the first mail does not."""
        await self.understand([])

    async def close(self) -> None:
        """End the child by hanging up; what it was doing is done again after a restart."""
        if self._socket is not None:
            # Not closed: the thread may be reading from it, and its number would be used again.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        for _ in range(_FAREWELL_LOOKS):
            if self._child is None or self._child.poll() is not None:
                break
            await asyncio.sleep(_FAREWELL_SECONDS / _FAREWELL_LOOKS)
        self._kill()
        ending = asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        await asyncio.wait({ending}, timeout=2 * _KILL_SECONDS)
        self._thread.shutdown(wait=False)

    def _exchange(self, mails: Sequence[bytes]) -> list[Packed]:
        connection = self._connected()
        connection.send_bytes(_ENCODE(mails))
        return _DECODE(connection.recv_bytes())

    def _connected(self) -> Connection:
        """Give the connection to a child that lives and has said so."""
        if self._child is not None and self._connection is not None and self._child.poll() is None:
            return self._connection
        self._hang_up()
        try:
            self._connection = self._start()
            self._connection.recv_bytes()  # it has loaded what it needs
        except (EOFError, OSError) as error:
            self._end()
            raise Unavailable("No process can be started to read mail.") from error
        return self._connection

    def _start(self) -> Connection:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(  # noqa: S603 - our own program
                [
                    sys.executable,
                    "-m",
                    "mailtape_workers.child",
                    str(theirs.fileno()),
                    str(self._settings.memory_bytes),
                    msgspec.json.encode(self._settings.limits).decode(),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_ALLOCATOR | os.environ,  # noqa: TID251 - handed on, not read
                start_new_session=True,  # Ctrl-C is for the parent, which then hangs up
            )
        return Connection(os.dup(self._socket.fileno()))

    def _hang_up(self) -> None:
        for end in (self._connection, self._socket):
            if end is not None:
                end.close()
        self._connection = self._socket = None

    def _end(self) -> None:
        """Kill the child and wait until it is gone; in the thread, for it may take long."""
        self._kill()
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_KILL_SECONDS)
        self._hang_up()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
