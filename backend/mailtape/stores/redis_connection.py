"""Redis as our stores use it: answered in a fraction of a second, or not asked at all.

Promises:

* A call ends within `SECONDS` for a connection that is free and connected, and again for its
  answers; nothing is tried twice behind our back. The library's own defaults would hold a mail
  server up for a minute.
* Whatever keeps Redis from working is `Unavailable`: no connection, no answer in time, a replica,
  no memory, still loading, a wrong password.
* After three failures in a row Redis is left alone, and calls fail at once, until a write that is
  tried each second succeeds.
* Each connection is asked first whose it is, and `server` names that: one that was started again,
  or has taken another's place, may answer from data of any age.

A command that fails may have been carried out; callers make theirs repeatable.

Of the library we use its connections, not its client and its pool: those take four times as long
over a call, in tasks, locks and timers, and calls are most of what a policy check costs.
"""

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import structlog
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from mailtape.background import lasting, own_cancellation_only
from mailtape.deadline import within_seconds
from mailtape.domain.errors import Unavailable

log = structlog.get_logger(__name__)

SECONDS = 0.3
PROBE_SECONDS = 1.0
_BORNE = 3
"""Failures in a row."""
_CONNECTIONS = 8
_PROBE = "mailtape:probe"
_WHO = ("EVAL", "return redis.call('INFO', 'server')", 0)

Argument: TypeAlias = str | bytes | int
Answer: TypeAlias = Any
"""What RESP knows: None, int, bytes, or a list of them."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; Redis knows it by the SHA-1 of its text."""

    text: str
    name: str = field(init=False)

    def __post_init__(self) -> None:
        name = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "name", name)


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a script."""

    script: Script
    keys: Sequence[str | bytes]
    arguments: Sequence[Argument] = ()


class _AnotherServer(Exception):
    """Not the one that this was meant for; nothing was carried out."""


class RedisConnection:
    """A few connections to one server, and whether it answers. Needs a running event loop."""

    def __init__(self, url: str, *, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        pool = ConnectionPool.from_url(
            url,
            socket_timeout=None,  # ours: one for all answers of a call
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self._connections: list[AbstractConnection] = [
            pool.make_connection()  # type: ignore[no-untyped-call]
            for _ in range(_CONNECTIONS)
        ]
        # The one that was used last comes first: few are opened unless many are needed.
        self._idle: asyncio.LifoQueue[AbstractConnection] = asyncio.LifoQueue()
        for connection in self._connections:
            self._idle.put_nowait(connection)
        self._failures = 0
        self._failed_at = time.monotonic()
        self._probing: asyncio.Task[None] | None = None
        self.server = ""
        """The running server that was connected to last, by its `run_id`; nothing before that."""

    @property
    def available(self) -> bool:
        """Whether Redis is asked at all at the moment."""
        return self._probing is None

    @property
    def seconds_without_failure(self) -> float:
        """For how long every call has been answered; at most since the process started."""
        return 0.0 if self._probing is not None else time.monotonic() - self._failed_at

    async def run(self, calls: Sequence[Call], *, server: str = "") -> list[Answer]:
        """Run scripts, sent together; one answer for each.

        When a server is named, no other runs them: the answers are None then.

        Raises:
            Unavailable: some or all may have run.
        """
        try:
            answers = await self.commands([_evalsha(call) for call in calls], server=server)
            missing = [n for n, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if missing:
                texts = dict.fromkeys(calls[n].script.text for n in missing)
                await self.commands([("SCRIPT", "LOAD", text) for text in texts])
                again = [_evalsha(calls[n]) for n in missing]
                for n, answer in zip(
                    missing, await self.commands(again, server=server), strict=True
                ):
                    answers[n] = answer
        except _AnotherServer:
            return [None] * len(calls)
        return answers

    async def commands(
        self, commands: Sequence[Sequence[Argument]], *, server: str = ""
    ) -> list[Answer]:
        """Send commands together; one answer for each.

        Raises:
            Unavailable: some or all may have been carried out.
        """
        if self._probing is not None:
            raise Unavailable("The counters cannot be asked at the moment.")
        try:
            answers = await self._send(commands, server)
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            raise Unavailable("The counters cannot be asked at the moment.") from error
        self._failures = 0
        return answers

    async def close(self) -> None:
        """Hang up."""
        if self._probing is not None:
            self._probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probing
        for connection in self._connections:
            await connection.disconnect()

    async def _send(self, commands: Sequence[Sequence[Argument]], server: str = "") -> list[Answer]:
        connection = await within_seconds(self._seconds, self._connected())
        try:
            if server not in {"", self.server}:
                raise _AnotherServer
            return await within_seconds(self._seconds, _ask(connection, commands))
        finally:
            self._idle.put_nowait(connection)

    async def _connected(self) -> AbstractConnection:
        """Take a connection that is free, and connect it if need be."""
        connection = await self._idle.get()
        try:
            if await _reconnected(connection):
                (told,) = await _ask(connection, [_WHO])
                self.server = _run_id(told)
        except BaseException:
            self._idle.put_nowait(connection)
            raise
        return connection

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self._failed_at = time.monotonic()
        if self._failures >= _BORNE and self._probing is None:
            log.warning("redis.left_alone", error=type(error).__name__)
            self._probing = lasting(self._probe(), "redis probe")

    async def _probe(self) -> None:
        """Try a write each second: a replica and a full server would answer a mere ping."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                with own_cancellation_only():
                    await self._send([("SET", _PROBE, "1", "PX", "1000")])
            except Exception as error:  # noqa: BLE001 - whatever it is, it does not work yet
                log.debug("redis.still_left_alone", error=type(error).__name__)
                continue
            break
        self._failures = 0
        self._failed_at = time.monotonic()
        self._probing = None
        log.info("redis.answers_again")


async def check_address(url: str) -> None:
    """Let the driver read an address; connects to nothing.

    Raises:
        ValueError: it cannot.
    """
    try:
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
    except TypeError as error:  # a parameter that no connection has
        raise ValueError("no such parameter") from error


def _evalsha(call: Call) -> tuple[Argument, ...]:
    return ("EVALSHA", call.script.name, len(call.keys), *call.keys, *call.arguments)


async def _reconnected(connection: AbstractConnection) -> bool:
    """Connect if need be, as when the server has hung up meanwhile; tell whether it was."""
    if connection.is_connected:
        if not await connection.can_read():  # nothing is under way: it could only read the end
            return False
        await connection.disconnect(nowait=True)
    await connection.connect()  # type: ignore[no-untyped-call]
    return True


def _run_id(told: bytes) -> str:
    found = re.search(rb"^run_id:(\w+)", told, re.MULTILINE)
    if found is None:
        raise ResponseError("The server does not tell its run_id.")
    return found[1].decode()


async def _ask(
    connection: AbstractConnection, commands: Sequence[Sequence[Argument]]
) -> list[Answer]:
    """Send commands and read the answers; when it fails or is given up, the connection is cut."""
    await connection.send_packed_command(_packed(commands))
    answers: list[Answer] = []
    refusal: ResponseError | None = None
    for _ in commands:
        try:
            answers.append(await connection.read_response())
        except NoScriptError as error:
            answers.append(error)
        except ResponseError as error:
            refusal = refusal or error  # the other answers are read all the same
    if refusal is not None:
        await connection.disconnect(nowait=True)
        raise refusal
    return answers


def _packed(commands: Sequence[Sequence[Argument]]) -> bytes:
    """Write commands as RESP has them: arrays of strings. The library takes twice as long."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            octets = argument if isinstance(argument, bytes) else str(argument).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(octets), octets))
    return b"".join(parts)
