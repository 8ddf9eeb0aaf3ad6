"""Bodies as documents in MongoDB, large ones in GridFS.

Four places, each document named by the body's key, so that none needs a transaction:

    kept     one small document a body: the names of its blobs and files. First in, last out.
    blobs    one document an attachment, and a raw or content too large to lie in the body.
    large    a GridFS bucket: what is too large for a document.
    bodies   raw and content, and where the rest is. Last in, first out.

So whatever was cut off by a crash is named in `kept`, where the sweep finds it, and what stands in
`bodies` is whole. A blob's name holds the digest of its bytes: when a later release understands a
mail otherwise than the one that was killed while it kept it, the parts of the two never mix.

Nobody deletes a body that is being kept: only what no row and no queued mail names is deleted.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pymongo import ASCENDING, UpdateOne

from mailtape.domain.ids import IngestId, OrganisationId
from mailtape.ports.bodies import Blob, Body, BodyKey, Parts
from mailtape.stores.mongo_connection import (
    Collection,
    Database,
    Document,
    delete_all,
    driver_errors,
    insert_missing,
)
from mailtape.stores.mongo_files import MongoFiles

_ID_OCTETS = 16

_MOST_IN_BODY = 256 * 1024
"""Compressed octets of raw or content that lie in the body's own document. A server reads the
whole document to answer with a part of it."""

_MOST_IN_DOCUMENT = 8 * 2**20
"""Half of what BSON allows; beyond it, GridFS."""

_SMALL_AT_A_TIME = 100
_BLOBS_AT_A_TIME = 8


@dataclass(slots=True)
class _Layout:
    """One body as it lies on the server."""

    key: str
    document: Document
    blobs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def entry(self) -> Document:
        """What `kept` says of it."""
        return {"_id": self.key, "blobs": list(self.blobs), "files": list(self.files)}


class MongoBodies:
    """`ports.bodies.Bodies` in one database of MongoDB."""

    def __init__(self, database: Database) -> None:
        self._kept: Collection = database["kept"]
        self._blobs: Collection = database["blobs"]
        self._bodies: Collection = database["bodies"]
        self._large = MongoFiles(database, "large")

    async def prepare(self) -> None:
        """Make what the server must have before the first body; what is there stays.

        Every document is asked for by its `_id`, so only GridFS has indexes to make.

        Raises:
            Unavailable: it could not be done.
        """
        await self._large.prepare()

    async def keep(self, bodies: Sequence[Body]) -> None:
        """See `ports.bodies`."""
        once = {body.key: body for body in reversed(bodies)}  # of two the first stays
        laid_out = [await _lay_out(body) for body in once.values()]
        with driver_errors():
            there = await insert_missing(self._kept, [layout.entry for layout in laid_out])
            missing = [layout for layout in laid_out if layout.key not in there]
            missing += await self._unfinished([one for one in laid_out if one.key in there])
            await insert_missing(
                self._blobs,
                [
                    {"_id": _part(layout.key, name), "data": data}
                    for layout in missing
                    for name, data in layout.blobs.items()
                ],
            )
            for layout in missing:
                for name, data in layout.files.items():
                    await self._large.put(_part(layout.key, name), data)
            # Also what is there: the answer waits until that is durable.
            await insert_missing(self._bodies, [layout.document for layout in laid_out])

    async def raw(self, key: BodyKey) -> Blob | None:
        """See `ports.bodies`."""
        return await self._part_of_body(key, "raw")

    async def content(self, key: BodyKey) -> Blob | None:
        """See `ports.bodies`."""
        return await self._part_of_body(key, "content")

    async def attachment(self, key: BodyKey, attachment_id: str) -> Blob | None:
        """See `ports.bodies`."""
        name = attachment_id.encode()
        for facts in await self._attachments(key):
            if facts["name"] == name:
                return await self._blob(_to_id(key), facts, None)
        return None

    async def parts(self, key: BodyKey) -> Parts | None:
        """See `ports.bodies`."""
        with driver_errors():
            found = await self._bodies.find_one({"_id": _to_id(key)})
        if found is None:
            return None
        raw, content = [
            await self._blob(found["_id"], found[f"{part}_facts"], found.get(part))
            for part in ("raw", "content")
        ]
        return Parts(raw, content, [facts["name"].decode() for facts in found["attachments"]])

    async def delete(self, keys: Sequence[BodyKey]) -> None:
        """See `ports.bodies`."""
        with driver_errors():
            entries = [
                entry
                for key in dict.fromkeys(keys)
                if (entry := await self._kept.find_one({"_id": _to_id(key)})) is not None
            ]
            ids = [entry["_id"] for entry in entries]
            await delete_all(self._bodies, ids, _SMALL_AT_A_TIME)
            await delete_all(self._blobs, _parts(entries, "blobs"), _BLOBS_AT_A_TIME)
            await self._large.delete(_parts(entries, "files"))
            await delete_all(self._kept, ids, _SMALL_AT_A_TIME)

    async def keys(self, after: BodyKey | None, most: int) -> list[BodyKey]:
        """See `ports.bodies`.

        Those of bodies whose keeping was cut off are among them.
        """
        start = "" if after is None else _to_id(after)
        with driver_errors():
            found = self._kept.find({"_id": {"$gt": start}}, {"_id": 1})
            return [
                _to_key(entry["_id"]) async for entry in found.sort("_id", ASCENDING).limit(most)
            ]

    async def _unfinished(self, layouts: Sequence[_Layout]) -> list[_Layout]:
        """Tell which of these were begun and not ended, and name their parts for the sweep."""
        unfinished = [
            layout
            for layout in layouts
            if await self._bodies.find_one({"_id": layout.key}, {"_id": 1}) is None
        ]
        if unfinished:
            await self._kept.bulk_write([_also_name(layout) for layout in unfinished])
        return unfinished

    async def _part_of_body(self, key: BodyKey, part: str) -> Blob | None:
        facts = f"{part}_facts"
        with driver_errors():
            found = await self._bodies.find_one({"_id": _to_id(key)}, {part: 1, facts: 1})
        if found is None:
            return None
        return await self._blob(found["_id"], found[facts], found.get(part))

    async def _attachments(self, key: BodyKey) -> list[Document]:
        with driver_errors():
            found = await self._bodies.find_one({"_id": _to_id(key)}, {"attachments": 1})
        return [] if found is None else found["attachments"]

    async def _blob(self, key: str, facts: Document, here: bytes | None) -> Blob | None:
        """Bring the bytes to what is known of them, from where they lie."""
        data = here
        if "file" in facts:
            data = await self._large.get(_part(key, facts["file"]))
        elif "blob" in facts:
            with driver_errors():
                found = await self._blobs.find_one({"_id": _part(key, facts["blob"])})
            data = None if found is None else found["data"]
        return None if data is None else Blob(data, facts["size"], facts["sha256"])


async def _lay_out(body: Body) -> _Layout:
    document: Document = {"_id": _to_id(body.key)}
    layout = _Layout(document["_id"], document)
    for part, blob in (("raw", body.raw), ("content", body.content)):
        if len(blob.zstd) <= _MOST_IN_BODY:
            document[part] = blob.zstd
            document[f"{part}_facts"] = _facts(blob)
        else:
            document[f"{part}_facts"] = _facts(blob) | await _set_apart(layout, blob)
    # Names as bytes: not every server takes every character in a string.
    document["attachments"] = [
        {"name": name.encode()} | _facts(blob) | await _set_apart(layout, blob)
        for name, blob in body.attachments
    ]
    return layout


def _facts(blob: Blob) -> Document:
    return {"size": blob.size, "sha256": blob.sha256}


async def _set_apart(layout: _Layout, blob: Blob) -> Document:
    """Add a blob to those that lie outside of the body's document; give what finds it there."""
    if len(blob.zstd) <= _MOST_IN_DOCUMENT:
        name = hashlib.sha256(blob.zstd).hexdigest()
        layout.blobs[name] = blob.zstd
        return {"blob": name}
    name = await asyncio.to_thread(lambda: hashlib.sha256(blob.zstd).hexdigest())
    layout.files[name] = blob.zstd
    return {"file": name}


def _also_name(layout: _Layout) -> UpdateOne:
    entry = layout.entry
    names = {"blobs": {"$each": entry["blobs"]}, "files": {"$each": entry["files"]}}
    return UpdateOne({"_id": layout.key}, {"$addToSet": names})


def _parts(entries: Iterable[Document], place: str) -> list[str]:
    return [_part(entry["_id"], name) for entry in entries for name in entry[place]]


def _part(key: str, name: str) -> str:
    return f"{key}/{name}"


def _to_id(key: BodyKey) -> str:
    """Write a key as text that is in the order of keys."""
    return key.ingest_id.hex() + key.organisation_id.hex()


def _to_key(text: str) -> BodyKey:
    octets = bytes.fromhex(text)
    return BodyKey(IngestId(octets[:_ID_OCTETS]), OrganisationId(octets[_ID_OCTETS:]))
