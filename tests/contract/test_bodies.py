"""What `ports.bodies` promises, asked of every implementation."""

import asyncio
import hashlib
import secrets

import pytest

from fakes import an_ingest_id, an_organisation_id
from mailtape.ports.bodies import Blob, Bodies, Body, BodyKey, Parts


def _blob(data: bytes) -> Blob:
    return Blob(data, len(data), hashlib.sha256(data).digest())


def _body(raw: bytes = b"raw\x00\xff", key: BodyKey | None = None) -> Body:
    return Body(
        key=key or BodyKey(an_ingest_id(), an_organisation_id()),
        raw=_blob(raw),
        content=_blob(b"content of " + raw),
        attachments=(("1", _blob(b"first")), ("2", _blob(b"second")), ("10", _blob(b"tenth"))),
    )


async def attachment_ids(bodies: Bodies, key: BodyKey) -> list[str]:
    parts = await bodies.parts(key)
    assert parts is not None
    return parts.attachment_ids


async def test_gives_back_every_part(bodies: Bodies) -> None:
    body = _body()

    await bodies.keep([body])

    assert await bodies.raw(body.key) == body.raw
    assert await bodies.content(body.key) == body.content
    assert await bodies.attachment(body.key, "2") == _blob(b"second")
    assert await bodies.parts(body.key) == Parts(body.raw, body.content, ["1", "2", "10"])


async def test_keeps_a_body_once_however_often_it_is_kept(bodies: Bodies) -> None:
    body = _body()

    await bodies.keep([body, body])
    await bodies.keep([body])

    assert await bodies.keys(None, 10) == [body.key]
    assert await attachment_ids(bodies, body.key) == ["1", "2", "10"]


async def test_keeps_the_copies_of_two_organisations_apart(bodies: Bodies) -> None:
    ours = _body()
    theirs = _body(key=BodyKey(ours.key.ingest_id, an_organisation_id()))
    await bodies.keep([ours, theirs])

    await bodies.delete([theirs.key])

    assert await bodies.raw(theirs.key) is None
    assert await bodies.raw(ours.key) == ours.raw


async def test_deletes_a_body_whole(bodies: Bodies) -> None:
    body = _body()
    await bodies.keep([body])

    await bodies.delete([body.key, body.key])

    assert await bodies.raw(body.key) is None
    assert await bodies.content(body.key) is None
    assert await bodies.attachment(body.key, "1") is None
    assert await bodies.parts(body.key) is None
    assert await bodies.keys(None, 10) == []


async def test_knows_nothing_of_what_was_never_kept(bodies: Bodies) -> None:
    key = _body().key

    assert await bodies.raw(key) is None
    assert await bodies.content(key) is None
    assert await bodies.attachment(key, "1") is None


async def test_keeps_every_octet_wherever_it_stands(bodies: Bodies) -> None:
    odd = bytes(range(256)) + b"\x00\x00\xff\xfe\xc3\x28\xed\xa0\x80"
    names = ("1", "a\x00b", "a.b", "$where", "", "é/\u2028")
    attachments = tuple((name, _blob(odd + name.encode())) for name in names)
    body = Body(BodyKey(an_ingest_id(), an_organisation_id()), _blob(odd), _blob(odd), attachments)

    await bodies.keep([body])

    assert await bodies.raw(body.key) == body.raw
    assert await bodies.content(body.key) == body.content
    assert await attachment_ids(bodies, body.key) == list(names)
    assert [await bodies.attachment(body.key, name) for name in names] == [
        blob for _, blob in attachments
    ]


@pytest.mark.parametrize("size", [0, 256 * 1024, 256 * 1024 + 1, 8 * 2**20, 8 * 2**20 + 1])
async def test_keeps_parts_of_every_size(bodies: Bodies, size: int) -> None:
    blob = _blob(secrets.token_bytes(size))
    key = BodyKey(an_ingest_id(), an_organisation_id())
    body = Body(key, blob, blob, (("1", blob), ("2", blob)))

    await bodies.keep([body])
    await bodies.keep([body])

    assert await bodies.raw(key) == await bodies.content(key) == blob
    assert await bodies.attachment(key, "1") == await bodies.attachment(key, "2") == blob
    await bodies.delete([key])
    assert await bodies.raw(key) is None


async def test_keeps_a_body_once_when_two_keep_it_at_a_time(bodies: Bodies) -> None:
    batch = [_body(secrets.token_bytes(1000)) for _ in range(20)]

    await asyncio.gather(*(bodies.keep(batch) for _ in range(4)))

    assert await bodies.keys(None, 100) == sorted(body.key for body in batch)
    for body in batch:
        assert await bodies.raw(body.key) == body.raw
        assert await attachment_ids(bodies, body.key) == ["1", "2", "10"]


async def test_the_first_that_was_kept_stays(bodies: Bodies) -> None:
    body = _body()
    await bodies.keep([body])

    await bodies.keep([_body(b"understood otherwise", body.key)])

    assert await bodies.raw(body.key) == body.raw
    assert await bodies.content(body.key) == body.content


async def test_names_all_bodies_page_by_page_in_order(bodies: Bodies) -> None:
    kept = [_body(str(n).encode()) for n in range(25)]
    await bodies.keep(kept)

    named: list[BodyKey] = []
    while page := await bodies.keys(named[-1] if named else None, 10):
        named += page

    assert named == sorted(body.key for body in kept)
