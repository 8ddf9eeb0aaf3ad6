"""What `ports.claims` promises, asked of every implementation."""

import secrets
from datetime import UTC, datetime, timedelta

import pytest

from fakes import an_ingest_id
from mailtape.domain.ids import IngestId, new_id
from mailtape.ports.claims import Claims

NOW = datetime.now(UTC)


def _accepted(when: datetime) -> IngestId:
    return IngestId(new_id(int(when.timestamp() * 1000)))


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 9 * 2**20 + 5])
async def test_gives_back_what_was_kept(claims: Claims, size: int) -> None:
    ingest_id, raw = an_ingest_id(), secrets.token_bytes(size)

    await claims.keep(ingest_id, raw)

    assert await claims.fetch(ingest_id) == raw


async def test_keeps_every_octet(claims: Claims) -> None:
    ingest_id, raw = an_ingest_id(), bytes(range(256)) + b"\x00\xff\xc3\x28\r\n.\r\n\x00"

    await claims.keep(ingest_id, raw)

    assert await claims.fetch(ingest_id) == raw


async def test_keeps_a_claim_once_however_often_it_is_kept(claims: Claims) -> None:
    ingest_id, raw = an_ingest_id(), secrets.token_bytes(2**20 + 1)

    await claims.keep(ingest_id, raw)
    await claims.keep(ingest_id, raw)

    assert await claims.fetch(ingest_id) == raw
    assert await claims.older_than(NOW + timedelta(hours=1), 10) == [ingest_id]


async def test_deletes_only_what_it_is_told(claims: Claims) -> None:
    gone, stays = an_ingest_id(), an_ingest_id()
    await claims.keep(gone, b"a" * (2**20 + 1))
    await claims.keep(stays, b"b")

    await claims.delete([gone, gone, an_ingest_id()])
    await claims.delete([])

    assert await claims.fetch(gone) is None
    assert await claims.fetch(stays) == b"b"
    assert await claims.older_than(NOW + timedelta(hours=1), 10) == [stays]


async def test_tells_how_much_is_kept(claims: Claims) -> None:
    assert await claims.octets() == 0
    first, second = an_ingest_id(), an_ingest_id()
    await claims.keep(first, bytes(2**20 + 1))
    await claims.keep(first, bytes(2**20 + 1))
    await claims.keep(second, bytes(300))

    assert await claims.octets() == 2**20 + 301
    await claims.delete([first])
    assert await claims.octets() == 300


async def test_names_what_was_accepted_before_an_instant_oldest_first(claims: Claims) -> None:
    old = [_accepted(NOW - timedelta(hours=hours)) for hours in (25, 30, 26, 27)]
    for ingest_id in (*old, _accepted(NOW)):
        await claims.keep(ingest_id, b"raw")

    before = NOW - timedelta(hours=24)
    assert await claims.older_than(before, 10) == sorted(old)
    assert await claims.older_than(before, 2) == sorted(old)[:2]
    assert await claims.older_than(before, 10, after=sorted(old)[1]) == sorted(old)[2:]
