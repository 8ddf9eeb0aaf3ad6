"""Redis looked at from outside: every script run once, its clock, and what its refusals mean."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from mailtape.domain.diagnosis import Check, NotRight, causes
from mailtape.domain.errors import Unavailable
from mailtape.domain.ids import OrganisationId
from mailtape.domain.tier import Limits
from mailtape.ports.limits import FailureLimit
from mailtape.rows import schema
from mailtape.rows.database import Database
from mailtape.rows.sqlite_database import SqliteDatabase
from mailtape.rows.writing_thread import WritingThread
from mailtape.stores.redis_connection import RedisConnection
from mailtape.stores.redis_counters import RedisCounters
from mailtape.stores.redis_limits import RedisFailureLimits

_OCTETS = 100
_LOOKED_AT = 10_000
_REDIS = "REDIS_URL must lead to Redis itself, 6 or newer, and to a primary."
_LOGIN = "The server at REDIS_URL does not take the user and password in it; change these."


def answering(redis: RedisConnection) -> Check:
    """Ask for a sign of life."""

    async def ask() -> str:
        await redis.commands([("PING",)])
        return "It answers."

    return Check("lets us in", ask, decides=True)


def every_script(redis: RedisConnection) -> Check:
    """Have every script run once, for an organisation and a subject that nobody is.

    The rows that the counters are filled from are empty ones, in a file: what is wrong with the
    installation's own is not Redis' fault.
    """

    async def ask() -> str:
        prefix = f"mailtape:doctor:{secrets.token_hex(8)}:"
        async with _no_rows() as database:
            counters = RedisCounters(redis, database, prefix, seconds_for_others=0)
            try:
                seen = await _counted(counters)
                await _limited(RedisFailureLimits(redis, prefix))
            except Unavailable as error:
                raise NotRight(f"The scripts could not be run. {_REDIS}") from error
            finally:
                await counters.close()
                await _remove(redis, prefix)
        if seen != [1, 0, 1, _OCTETS, 0]:
            raise NotRight(f"The scripts do not come to what they must. {_REDIS}")
        return "Room was held, used, given back and counted again."

    return Check("runs the scripts of counters and limits", ask)


@asynccontextmanager
async def _no_rows() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="mailtape-doctor-") as folder:
        path = Path(folder) / "rows.sqlite3"
        await asyncio.to_thread(schema.migrate, path)
        writing = WritingThread()
        database = SqliteDatabase(path, writing)
        try:
            yield database
        finally:
            await asyncio.to_thread(writing.stop)
            await asyncio.to_thread(database.close)


async def _counted(counters: RedisCounters) -> list[int]:
    """Hold room for two mails, take the one, give the other back, and count by the rows again."""
    nobody, now = OrganisationId(secrets.token_bytes(16)), datetime.now(UTC)
    limits = Limits(emails_per_month=2, storage_bytes=10 * _OCTETS, messages_per_minute=60)
    one, other = ("doctor", "one@localhost"), ("doctor", "other@localhost")
    for key in (one, other):
        await counters.reserve(nobody, limits, key, _OCTETS, now)
    await counters.fits(nobody, limits, one, _OCTETS, now)
    await counters.commit(nobody, [one], _OCTETS, now)
    held = await counters.usage(nobody, now)
    await counters.release(nobody, [other])
    used = await counters.usage(nobody, now)
    await counters.reconcile(now, stored=None)
    await counters.reconcile(now, stored=now + timedelta(minutes=1))
    return [
        held.reserved_emails,
        used.reserved_emails,
        used.emails,
        used.storage_bytes,
        (await counters.usage(nobody, now)).emails,
    ]


async def _limited(limits: RedisFailureLimits) -> None:
    """Count one failure; it runs out within a second."""
    limit = FailureLimit("doctor", "nobody", most=2, window=timedelta(seconds=1))
    await limits.count([limit], datetime.now(UTC))
    await limits.check([limit], datetime.now(UTC))


async def _remove(redis: RedisConnection, prefix: str) -> None:
    cursor: bytes | int = 0
    while True:
        ((cursor, keys),) = await redis.commands(
            [("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", _LOOKED_AT)]
        )
        if keys:
            await redis.commands([("UNLINK", *keys)])
        if int(cursor) == 0:
            return


async def clock(redis: RedisConnection) -> datetime:
    """Read the server's clock."""
    ((seconds, microseconds),) = await redis.commands([("TIME",)])
    return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(microseconds))


def keeping(redis: RedisConnection) -> Check:
    """See that nothing is dropped to make room."""

    async def ask() -> str:
        (told,) = await redis.commands([("EVAL", "return redis.call('INFO', 'memory')", 0)])
        fault = fault_of_memory(told.decode())
        if fault is not None:
            raise NotRight(fault)
        return "Nothing is dropped to make room."

    return Check("keeps what it is given", ask)


def fault_of_memory(told: str) -> str | None:
    """Say, from what `INFO memory` tells, when the server may drop counters to make room."""
    facts = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or facts.get("maxmemory", "0") == "0":
        return None
    return (
        f"maxmemory-policy is {policy} at the server of REDIS_URL, which drops counters to make"
        " room; set it to noeviction there."
    )


def explain(error: BaseException) -> str | None:
    """Name the setting that the driver's own error is about."""
    for each in causes(error):
        words = str(each).upper()
        if isinstance(each, AuthenticationError) or "WRONGPASS" in words or "NOAUTH" in words:
            return _LOGIN
        if isinstance(each, NoPermissionError):
            return "The user in REDIS_URL may not do what is needed; allow it all commands."
        if isinstance(each, ResponseError) and "READONLY" in words:
            return "The server at REDIS_URL is a replica; the address must lead to the primary."
        if isinstance(each, ResponseError) and words.startswith("OOM"):
            return "The memory of the server at REDIS_URL is full; raise its maxmemory."
        if isinstance(each, ResponseError) and "DB INDEX" in words:
            return "There is no database of that number at REDIS_URL; change the end of it."
        if isinstance(each, RedisError | OSError | TimeoutError):
            return "Nothing answers as Redis at REDIS_URL; start it, or change the address."
    return None
