"""Limits on failures in Redis: what it keeps, and what holds when it is down, back or emptied."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
import redis as blocking

import services
from installation import Installation
from mailtape.domain.errors import TooMany, Unavailable
from mailtape.ports.limits import FailureLimit, FailureLimits
from mailtape.stores.redis_connection import RedisConnection
from mailtape.stores.redis_limits import RedisFailureLimits, StandbyFailureLimits
from mailtape.stores.sql_limits import SqlFailureLimits
from services import Instance

pytestmark = pytest.mark.services

ADA = FailureLimit("sign-in", "ada@example.org", most=5, window=timedelta(minutes=15))


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with services.running("redis") as started:
        yield started


@pytest.fixture
async def connection(instance: Instance) -> AsyncIterator[RedisConnection]:
    instance.start("redis")
    opened = RedisConnection(instance.variables()["REDIS_URL"], seconds=10.0)
    yield opened
    await opened.close()


@pytest.fixture
def limits(connection: RedisConnection, installation: Installation) -> StandbyFailureLimits:
    in_rows = SqlFailureLimits(installation.parts.database)
    return StandbyFailureLimits(RedisFailureLimits(connection), in_rows, connection)


async def _borne(limits: FailureLimits, limit: FailureLimit, installation: Installation) -> int:
    """Be wrong until it is refused; tell how often that was borne."""
    for borne in range(limit.most + 1):
        try:
            await limits.check([limit], installation.clock())
        except TooMany:
            return borne
        await limits.count([limit], installation.clock())
    return limit.most + 1


async def test_whoever_was_wrong_too_often_stays_limited_while_redis_is_down_and_when_it_is_back(
    limits: StandbyFailureLimits, instance: Instance, installation: Installation
) -> None:
    bob = replace(ADA, subject="bob@example.org")
    assert await _borne(limits, ADA, installation) == 5

    instance.kill("redis")

    assert await _borne(limits, ADA, installation) == 0
    assert await _borne(limits, bob, installation) == 5
    instance.start("redis")
    assert await _borne(limits, ADA, installation) == 0
    assert await _borne(limits, bob, installation) == 0


async def test_nobody_is_let_in_when_neither_can_tell(
    connection: RedisConnection, instance: Instance, installation: Installation
) -> None:
    instance.kill("redis")
    alone = RedisFailureLimits(connection)
    limits = StandbyFailureLimits(alone, alone, connection)

    with pytest.raises(Unavailable):
        await limits.check([ADA], installation.clock())
    with pytest.raises(Unavailable):
        await limits.count([ADA], installation.clock())


async def test_redis_keeps_no_subject_in_clear_no_more_than_a_thousand_and_none_for_ever(
    connection: RedisConnection, instance: Instance, installation: Installation
) -> None:
    limits = RedisFailureLimits(connection, "mine:")
    for _ in range(1_050):
        await limits.count([ADA], installation.clock())

    with blocking.Redis.from_url(instance.variables()["REDIS_URL"]) as client:
        (subject,) = client.scan_iter(match="mine:*", count=1000)
        assert b"ada" not in subject
        assert client.zcard(subject) == 1000
        assert 0 < client.ttl(subject) <= 900
