"""Limits on failures in Redis: one script to check, one to count; and in the rows beside it.

A subject is a sorted set of the times at which it failed, under a digest. It keeps the last
thousand, and is gone when none of them counts.

`StandbyFailureLimits` counts in the rows as well, and asks them too until Redis has answered for a
whole window: so whoever was wrong too often stays limited while Redis is down and when it is back.
Where neither can be asked, nobody is let in. A Redis that is emptied while it answers bears the
failures of one more window.
"""

import asyncio
import contextlib
import hashlib
import math
import secrets
from collections.abc import Sequence
from datetime import datetime

from mailtape.domain.errors import TooMany, Unavailable
from mailtape.ports.limits import FailureLimit, FailureLimits
from mailtape.rows.base import to_us
from mailtape.stores.redis_connection import Argument, Call, RedisConnection, Script

_MOST_KEPT = 1000
_PREFIX = "mailtape:"

_CHECK = Script("""
-- KEYS: a subject of each limit. ARGV: when its window began, how many it bears; of each. Gives the
-- number of the first limit that is full, and when the failure was that has to pass; else nil.
for i, subject in ipairs(KEYS) do
  local full = redis.call('ZREVRANGEBYSCORE', subject, '+inf', '(' .. ARGV[2 * i - 1], 'WITHSCORES',
    'LIMIT', ARGV[2 * i] - 1, 1)
  if full[2] then return {i, string.format('%.0f', tonumber(full[2]))} end
end
return false
""")

_COUNT = Script(f"""
-- KEYS: a subject of each limit. ARGV: now, a name for this failure; then when its window began and
-- how many milliseconds it lasts; of each.
for i, subject in ipairs(KEYS) do
  redis.call('ZADD', subject, ARGV[1], ARGV[2])
  redis.call('ZREMRANGEBYSCORE', subject, '-inf', ARGV[2 * i + 1])
  redis.call('ZREMRANGEBYRANK', subject, 0, -{_MOST_KEPT + 1})
  redis.call('PEXPIRE', subject, ARGV[2 * i + 2])
end
return 1
""")


class RedisFailureLimits:
    """`ports.limits.FailureLimits` over Redis."""

    def __init__(self, redis: RedisConnection, prefix: str = _PREFIX) -> None:
        self._redis = redis
        self._prefix = prefix

    async def check(self, limits: Sequence[FailureLimit], now: datetime) -> None:
        """Pass when every limit has room for another failure; see the port.

        Raises:
            Unavailable: it cannot be told.
        """
        arguments: list[Argument] = []
        for limit in limits:
            if limit.most <= 0:
                raise _too_many(limit, limit.window.total_seconds())
            arguments += [to_us(now - limit.window), limit.most]
        (full,) = await self._redis.run([Call(_CHECK, self._subjects(limits), arguments)])
        if full is not None:
            number, failed_us = int(full[0]), int(full[1])
            limit = limits[number - 1]
            raise _too_many(limit, limit.window.total_seconds() + (failed_us - to_us(now)) / 1e6)

    async def count(self, limits: Sequence[FailureLimit], now: datetime) -> None:
        """Count one failure against each; see the port.

        Raises:
            Unavailable: it could not be; it may have been.
        """
        arguments: list[Argument] = [to_us(now), secrets.token_bytes(8)]
        for limit in limits:
            arguments += [to_us(now - limit.window), int(limit.window.total_seconds() * 1000)]
        await self._redis.run([Call(_COUNT, self._subjects(limits), arguments)])

    def _subjects(self, limits: Sequence[FailureLimit]) -> list[str]:
        return [
            f"{self._prefix}failures:"
            + hashlib.sha256(f"{limit.kind}\0{limit.subject}".encode()).hexdigest()
            for limit in limits
        ]


class StandbyFailureLimits:
    """`ports.limits.FailureLimits` for a fleet with Redis: counts in rows as well."""

    def __init__(
        self, redis: RedisFailureLimits, rows: FailureLimits, connection: RedisConnection
    ) -> None:
        self._redis = redis
        self._rows = rows
        self._connection = connection

    async def check(self, limits: Sequence[FailureLimit], now: datetime) -> None:
        """Ask Redis, and the rows where it may not know; see the port.

        Raises:
            Unavailable: it cannot be told.
        """
        with contextlib.suppress(Unavailable):
            await self._redis.check(limits, now)
        longest = max((limit.window.total_seconds() for limit in limits), default=0.0)
        if self._connection.seconds_without_failure < longest:
            await self._rows.check(limits, now)

    async def count(self, limits: Sequence[FailureLimit], now: datetime) -> None:
        """Count in both; see the port.

        Raises:
            Unavailable: the rows could not be written; whoever asks must be refused.
        """
        counted = await asyncio.gather(
            self._redis.count(limits, now), self._rows.count(limits, now), return_exceptions=True
        )
        if isinstance(counted[1], BaseException):
            raise counted[1]
        if isinstance(counted[0], BaseException) and not isinstance(counted[0], Unavailable):
            raise counted[0]


def _too_many(limit: FailureLimit, wait: float) -> TooMany:
    return TooMany("Too many failed tries.", retry_after=max(1, math.ceil(wait)), limit=limit.most)
