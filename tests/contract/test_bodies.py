"""What `ports.bodies` promises, asked of every implementation."""

import hashlib

from fakes import an_ingest_id, an_organisation_id
from mailtape.ports.bodies import Blob, Bodies, Body, BodyKey


def _blob(data: bytes) -> Blob:
    return Blob(data, len(data), hashlib.sha256(data).digest())


def _body(raw: bytes = b"raw\x00\xff", key: BodyKey | None = None) -> Body:
    return Body(
        key=key or BodyKey(an_ingest_id(), an_organisation_id()),
        raw=_blob(raw),
        content=_blob(b"content of " + raw),
        attachments=(("1", _blob(b"first")), ("2", _blob(b"second")), ("10", _blob(b"tenth"))),
    )


async def test_gives_back_every_part(bodies: Bodies) -> None:
    body = _body()

    await bodies.keep([body])

    assert await bodies.raw(body.key) == body.raw
    assert await bodies.content(body.key) == body.content
    assert await bodies.attachment(body.key, "2") == _blob(b"second")
    assert await bodies.attachment_ids(body.key) == ["1", "2", "10"]


async def test_keeps_a_body_once_however_often_it_is_kept(bodies: Bodies) -> None:
    body = _body()

    await bodies.keep([body, body])
    await bodies.keep([body])

    assert await bodies.keys(None, 10) == [body.key]
    assert await bodies.attachment_ids(body.key) == ["1", "2", "10"]


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
    assert await bodies.attachment_ids(body.key) == []
    assert await bodies.keys(None, 10) == []


async def test_knows_nothing_of_what_was_never_kept(bodies: Bodies) -> None:
    key = _body().key

    assert await bodies.raw(key) is None
    assert await bodies.content(key) is None
    assert await bodies.attachment(key, "1") is None


async def test_names_all_bodies_page_by_page_in_order(bodies: Bodies) -> None:
    kept = [_body(str(n).encode()) for n in range(25)]
    await bodies.keep(kept)

    named: list[BodyKey] = []
    while page := await bodies.keys(named[-1] if named else None, 10):
        named += page

    assert named == sorted(body.key for body in kept)
