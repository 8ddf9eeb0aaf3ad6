"""Bodies and claims in a real MongoDB: what a crash, a stopped server and a full disk leave."""

import asyncio
import dataclasses
import gc
import hashlib
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gridfs import AsyncGridFSBucket
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

import services
from contract.mongo import open_database
from fakes import an_ingest_id, an_organisation_id
from faults.small_disk import small_disk
from integration.large_body import a_large_body
from mailtape.domain.errors import StoreFull, Unavailable
from mailtape.ports.bodies import Blob, Body, BodyKey, Parts
from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_claims import MongoClaims
from mailtape.stores.mongo_connection import (
    OPERATION_SECONDS,
    Database,
    DocumentRefused,
    driver_errors,
    insert_missing,
    open_client,
)

pytestmark = pytest.mark.services
cuts_connections = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""The driver forgets to close the socket of a connection that it gave up making."""

_LARGE = ("large.files", "large.chunks")
_COLLECTIONS = ("kept", "bodies", "blobs", *_LARGE)


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    async with open_database() as opened:
        await MongoBodies(opened).prepare()
        yield opened


@pytest.fixture
def forgotten_sockets() -> Iterator[None]:
    """Collects them here, under the mark, rather than in whichever test comes later."""
    yield
    gc.collect()


@pytest.fixture
def instance(forgotten_sockets: None) -> Iterator[services.Instance]:
    with services.running("mongodb") as started:
        yield started


def _blob(data: bytes) -> Blob:
    return Blob(data, len(data), hashlib.sha256(data).digest())


def _body(size: int = 3000) -> Body:
    key = BodyKey(an_ingest_id(), an_organisation_id())
    attachments = (("1", _blob(secrets.token_bytes(size))),)
    return Body(key, _blob(secrets.token_bytes(size)), _blob(b"content"), attachments)


async def _assert_whole(bodies: MongoBodies, body: Body) -> None:
    assert await bodies.raw(body.key) == body.raw
    assert await bodies.content(body.key) == body.content
    names = [name for name, _ in body.attachments]
    assert await bodies.parts(body.key) == Parts(body.raw, body.content, names)
    for name, blob in body.attachments:
        assert await bodies.attachment(body.key, name) == blob


async def _counts(database: Database) -> dict[str, int]:
    return {name: await database[name].count_documents({}) for name in _COLLECTIONS}


async def test_large_parts_come_back_byte_for_byte_and_go_whole(database: Database) -> None:
    bodies, body = MongoBodies(database), a_large_body(1, raw=25, attachment=20)

    await bodies.keep([body])

    await _assert_whole(bodies, body)
    assert await _counts(database) == {
        "kept": 1,
        "bodies": 1,
        "blobs": 1,
        "large.files": 2,
        "large.chunks": 45,
    }
    await bodies.delete([body.key])
    assert set((await _counts(database)).values()) == {0}


@pytest.mark.parametrize(("octets", "files"), [(8 * 2**20, 0), (8 * 2**20 + 1, 1)])
async def test_what_is_over_8_mib_lies_in_gridfs(
    database: Database, octets: int, files: int
) -> None:
    body = Body(_body().key, _blob(secrets.token_bytes(octets)), _blob(b"content"), ())

    await MongoBodies(database).keep([body])

    assert (await _counts(database))["large.files"] == files
    assert await MongoBodies(database).raw(body.key) == body.raw


async def test_the_drivers_own_gridfs_reads_what_is_large(database: Database) -> None:
    body = a_large_body(2)
    await MongoBodies(database).keep([body])
    [raw_file] = [
        entry["_id"]
        async for entry in database["large.files"].find({})
        if entry["length"] == len(body.raw.zstd)
    ]

    stream = await AsyncGridFSBucket(database, "large").open_download_stream(raw_file)

    assert await stream.read() == body.raw.zstd


async def test_a_part_that_is_lost_is_not_there_rather_than_cut(database: Database) -> None:
    bodies, body = MongoBodies(database), a_large_body(3)
    await bodies.keep([body])
    chunk = await database["large.chunks"].find_one({"n": 7}, {"_id": 1})
    assert chunk is not None
    await database["large.chunks"].delete_one(chunk)

    found = [await bodies.raw(body.key), await bodies.attachment(body.key, "1")]

    assert found.count(None) == 1


async def test_a_keep_that_was_killed_is_ended_by_the_next(database: Database) -> None:
    bodies, body = MongoBodies(database), a_large_body(4)
    await _kill_in_the_middle(database, seed=4)
    cut_off = await _counts(database)

    assert cut_off["kept"] == 1
    assert cut_off["bodies"] == 0
    assert await bodies.raw(body.key) is None
    assert await bodies.keys(None, 10) == [body.key]

    await bodies.keep([body])
    await _assert_whole(bodies, body)
    assert (await _counts(database))["large.chunks"] == 21


async def test_the_sweep_finds_and_removes_what_a_killed_keep_left(database: Database) -> None:
    bodies = MongoBodies(database)
    await _kill_in_the_middle(database, seed=5)

    await bodies.delete(await bodies.keys(None, 10))

    assert set((await _counts(database)).values()) == {0}


async def test_one_that_understands_a_cut_off_mail_otherwise_keeps_its_own(
    database: Database,
) -> None:
    bodies, body = MongoBodies(database), a_large_body(6)
    await _kill_in_the_middle(database, seed=6)
    attachments = (("1", _blob(b"other")), ("2", _blob(secrets.token_bytes(9 * 2**20))))
    other = dataclasses.replace(body, content=_blob(b"other"), attachments=attachments)

    await bodies.keep([other])

    await _assert_whole(bodies, other)
    await bodies.delete([body.key])
    assert set((await _counts(database)).values()) == {0}


async def _kill_in_the_middle(database: Database, seed: int) -> None:
    """Let a process keep a large body, and kill it when a part of the chunks is there."""
    url, tests = services.variables("mongodb")["MONGODB_URL"], Path(__file__).parents[1]
    command = [sys.executable, "-m", "integration.large_body", url, database.name, str(seed)]
    process = await asyncio.create_subprocess_exec(*command, cwd=tests)
    try:
        async with asyncio.timeout(60):
            while not await database["large.chunks"].count_documents({}, limit=1):
                assert process.returncode is None, "it ended before it could be killed"
    finally:
        process.kill()
        await process.wait()
    assert 0 < await database["large.chunks"].count_documents({}) < 21


@cuts_connections
async def test_what_was_kept_is_there_after_the_server_is_killed(
    instance: services.Instance,
) -> None:
    async with open_client(instance.variables()["MONGODB_URL"]) as client:
        bodies, claims = MongoBodies(client["test"]), MongoClaims(client["test"])
        await bodies.prepare()
        small, large, claim = _body(), _body(9 * 2**20), an_ingest_id()

        await bodies.keep([small, large])
        await claims.keep(claim, large.raw.zstd)
        instance.kill("mongodb")
        with pytest.raises(Unavailable):
            await bodies.raw(small.key)
        instance.start("mongodb")

        await _assert_whole(bodies, small)
        await _assert_whole(bodies, large)
        assert await claims.fetch(claim) == large.raw.zstd


@cuts_connections
async def test_a_server_that_stands_still_is_unavailable_within_the_bound(
    instance: services.Instance,
) -> None:
    async with open_client(instance.variables()["MONGODB_URL"]) as client:
        bodies, claims = MongoBodies(client["test"]), MongoClaims(client["test"])
        await bodies.prepare()
        await claims.prepare()
        body, claim = _body(), an_ingest_id()
        await bodies.keep([body])
        questions: list[Callable[[], Awaitable[object]]] = [
            lambda: bodies.keep([_body()]),
            lambda: bodies.raw(body.key),
            lambda: bodies.content(body.key),
            lambda: bodies.attachment(body.key, "1"),
            lambda: bodies.parts(body.key),
            lambda: bodies.delete([body.key]),
            lambda: bodies.keys(None, 10),
            bodies.prepare,
            lambda: claims.keep(claim, b"raw"),
            lambda: claims.fetch(claim),
            lambda: claims.delete([claim]),
        ]

        with _paused(instance):
            took = await asyncio.gather(*(_seconds_until_unavailable(ask) for ask in questions))
            later = await _seconds_until_unavailable(questions[1])

        assert max(*took, later) < OPERATION_SECONDS + 2
        await _assert_whole(bodies, body)


@contextmanager
def _paused(instance: services.Instance) -> Iterator[None]:
    instance.pause("mongodb")
    try:
        yield
    finally:
        instance.resume("mongodb")


async def _seconds_until_unavailable(ask: Callable[[], Awaitable[object]]) -> float:
    begin = time.monotonic()
    with pytest.raises(Unavailable):
        await ask()
    return time.monotonic() - begin


@cuts_connections
async def test_a_full_disk_is_told_as_such_and_costs_nothing_kept(
    tmp_path: Path, forgotten_sockets: None
) -> None:
    kept, late = [_body() for _ in range(20)], [_body(200_000) for _ in range(5)]
    with small_disk(tmp_path / "small", 40) as disk, _running_in(disk.path) as instance:
        async with open_client(instance.variables()["MONGODB_URL"]) as client:
            bodies = MongoBodies(client["test"])
            await bodies.keep(kept)
            disk.fill()

            with pytest.raises(StoreFull):
                await bodies.keep(late)
            disk.free()
            await bodies.keep(late)

            for body in (*kept, *late):
                await _assert_whole(bodies, body)


@contextmanager
def _running_in(folder: Path) -> Iterator[services.Instance]:
    instance = services.Instance(folder)
    instance.start("mongodb")
    try:
        yield instance
    finally:
        instance.stop("mongodb")


class _Writes(CommandListener):
    """Collects the write concern of every command that writes."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in {"insert", "delete", "update", "createIndexes", "findAndModify"}:
            self.seen.append((event.command_name, event.command.get("writeConcern")))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.mark.parametrize("asked_for", ["", "w=1&journal=false", "w=2"])
async def test_every_write_asks_for_a_majority_and_the_journal(
    database: Database, asked_for: str
) -> None:
    writes = _Writes()
    url = services.variables("mongodb")["MONGODB_URL"].partition("?")[0].rstrip("/")
    async with open_client(f"{url}/?{asked_for}", listeners=[writes]) as client:
        bodies, claims = MongoBodies(client[database.name]), MongoClaims(client[database.name])
        body, cut_off, claim = _body(9 * 2**20), _body(), an_ingest_id()

        await bodies.keep([body])
        await bodies.keep([cut_off])
        await database["bodies"].delete_one({"_id": {"$ne": (await _first_id(database))}})
        await bodies.keep([body, cut_off])
        await bodies.delete([body.key])
        await claims.keep(claim, b"raw")
        await claims.delete([claim])

    assert {name for name, _ in writes.seen} == {"insert", "update", "delete"}
    assert all(concern == {"w": "majority", "j": True} for _, concern in writes.seen)


async def _first_id(database: Database) -> str:
    [first] = await database["kept"].find({}).sort("_id", 1).limit(1).to_list()
    return str(first["_id"])


async def test_making_ready_again_changes_nothing(database: Database) -> None:
    body = _body()
    bodies = MongoBodies(database)
    await bodies.keep([body])
    before = await database["large.chunks"].index_information()

    await bodies.prepare()

    assert await database["large.chunks"].index_information() == before
    await _assert_whole(bodies, body)


async def test_a_document_that_is_refused_is_no_outage(database: Database) -> None:
    with pytest.raises(DocumentRefused), driver_errors():
        await insert_missing(database["any"], [{"_id": re.compile("no id")}])


@cuts_connections
async def test_nothing_listens_there(unused_tcp_port: int, forgotten_sockets: None) -> None:
    async with open_client(f"mongodb://127.0.0.1:{unused_tcp_port}/") as client:
        took = await _seconds_until_unavailable(lambda: MongoBodies(client["x"]).keys(None, 1))

        assert took < OPERATION_SECONDS + 2
