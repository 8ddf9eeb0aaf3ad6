"""Whether everything that is kept still says the same: what `mailtape verifydata` runs.

Every body is read and unpacked, its size and sha256 computed again and compared with what the body
store and the rows say; events, usage, storage and search are counted again. Nothing is changed and
nothing is repaired. Memory is that of a page and a few bodies, whatever the size of the data, and
of the ids that are queued, 16 bytes each: the queue has a bound of its own.

Exact on data that nobody writes. While a server writes, a mail that is being stored or deleted can
show up as a finding that is none; run it again.

What a crash may leave is no finding but a note: the body of a deleted message, which the sweep
takes; a mail that is stored and still queued, which will be stored again without effect.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

import zstandard

from mailtape.domain.ids import IngestId, OrganisationId, to_text
from mailtape.domain.message import AttachmentFacts, Content
from mailtape.mime.pack import DamagedBlob, unpack_content
from mailtape.ports.bodies import Blob, Bodies, BodyKey
from mailtape.rows import verification
from mailtape.rows.database import Database
from mailtape.rows.events import MESSAGE_STORED
from mailtape.rows.verification import Account, MessageFacts, Month
from mailtape.rows.word_index import Look

_PAGE = 200
_KEYS = 5000
"""Names of bodies that are read at once. Not every server of bodies finds the next page without
looking at all there are."""
_AT_A_TIME = 8
"""Bodies that are read and unpacked side by side, to not wait for each answer."""
_ROWS = 5000
"""Rows of a page of which only a few numbers are read."""
_COUNTED = 100_000
"""Rows of a page that are only counted."""
_READ_BYTES = 2**20
_MOST_WINDOW_BYTES = 2**27
"""What a damaged frame may make the decompressor ask for."""
_MOST_HOLES = 20


class Kind(StrEnum):
    """What can be wrong; a name for programs."""

    BODY_MISSING = "body_missing"
    BODY_DAMAGED = "body_damaged"
    BODY_NEVER_STORED = "body_never_stored"
    ATTACHMENT_MISSING = "attachment_missing"
    ATTACHMENT_UNNAMED = "attachment_unnamed"
    MESSAGE_DIFFERS = "message_differs"
    ORGANISATION_MISSING = "organisation_missing"
    EVENT_MISSING = "event_missing"
    SEQUENCE_DIFFERS = "sequence_differs"
    USAGE_DIFFERS = "usage_differs"
    STORAGE_DIFFERS = "storage_differs"
    SEARCH_MISSING = "search_missing"
    SEARCH_WITHOUT_MESSAGE = "search_without_message"
    SEARCH_DAMAGED = "search_damaged"
    QUEUED_DAMAGED = "queued_damaged"
    QUEUED_TWICE = "queued_twice"
    BODY_LEFT_OVER = "body_left_over"


NOTES = frozenset({Kind.BODY_LEFT_OVER})
"""What is told and is no fault."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with the ids to look for."""

    kind: Kind
    what: str

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong, not only worth telling."""
        return self.kind not in NOTES


@dataclass(slots=True)
class Tally:
    """How much was looked at; counted up while `verify` runs."""

    organisations: int = 0
    messages: int = 0
    messages_with_body: int = 0
    bodies: int = 0
    attachments: int = 0
    queued: int = 0


class Queued(Protocol):
    """A queued mail as it lies on disk."""

    @property
    def number(self) -> int:
        """Its place in the queue."""

    @property
    def ingest_id(self) -> IngestId:
        """Its transaction."""

    @property
    def stated_size(self) -> int | None:
        """The raw size that its envelope says; None when the envelope cannot be read."""

    @property
    def size(self) -> int:
        """The raw size."""


Named: TypeAlias = Callable[[Sequence[IngestId]], Awaitable[set[IngestId]]]
"""Tells which of these mails a queue still has, or too many: see `ports.queue.Queue.named`."""


async def verify(
    database: Database,
    bodies: Bodies,
    queued: Iterable[Queued],
    tally: Tally,
    named_elsewhere: Named | None = None,
) -> AsyncIterator[Finding]:
    """Look at everything once and tell what is wrong, as it is found.

    `queued` is what lies in a file and is looked at; a queue that only tells which mails it has is
    asked by `named_elsewhere`, and their bodies are spared.

    Raises:
        Unavailable: a store cannot be read at all.
    """
    accounts = await database.read(verification.accounts)
    tally.organisations = len(accounts)
    named: set[IngestId] = set()

    async def still_queued(ingest_ids: Sequence[IngestId]) -> set[IngestId]:
        elsewhere = await named_elsewhere(ingest_ids) if named_elsewhere else set()
        return elsewhere | named.intersection(ingest_ids)

    for finding in _check_queue(queued, named, tally):
        yield finding
    for account in accounts:
        async for finding in check_account(database, account):
            yield finding
    async for finding in _check_bodies(database, bodies, still_queued, tally):
        yield finding
    async for finding in _check_messages(database, bodies, {a.id for a in accounts}, tally):
        yield finding
    async for finding in _check_search(database):
        yield finding


def _check_queue(queued: Iterable[Queued], named: set[IngestId], tally: Tally) -> Iterator[Finding]:
    for mail in queued:
        tally.queued += 1
        if mail.stated_size != mail.size:
            said = "an unreadable envelope" if mail.stated_size is None else mail.stated_size
            yield Finding(
                Kind.QUEUED_DAMAGED,
                f"queued mail {mail.number} ({to_text(mail.ingest_id)}) has {mail.size} bytes and"
                f" {said}",
            )
        if mail.ingest_id in named:
            yield Finding(
                Kind.QUEUED_TWICE,
                f"queued mail {mail.number} ({to_text(mail.ingest_id)}) is queued before",
            )
        named.add(mail.ingest_id)


async def check_account(database: Database, account: Account) -> AsyncIterator[Finding]:
    """Count an organisation's mail and events again."""
    whose = f"organisation {account.slug} ({to_text(account.id)})"
    storage = await _storage(database, account.id)
    if storage != account.storage_bytes:
        yield Finding(
            Kind.STORAGE_DIFFERS,
            f"{whose} has {storage} bytes of mail and counts {account.storage_bytes}",
        )
    kept = await database.read(verification.months, account.id)
    events = await _count_events(database, account.id)
    for period in sorted({*kept, *events.by_month}):
        month = kept.get(period, Month(0, 0))
        if month.emails != events.by_month[period] + month.forgotten:
            yield Finding(
                Kind.USAGE_DIFFERS,
                f"{whose} has {events.by_month[period]} events and {month.forgotten} forgotten ones"
                f" of {period} and counts {month.emails} mails",
            )
    forgotten = sum(month.forgotten for month in kept.values())
    first = events.first or account.sequence + 1
    if first != forgotten + 1 or (events.first and events.last != account.sequence):
        yield Finding(
            Kind.SEQUENCE_DIFFERS,
            f"{whose} has events {first} to {events.last}, {forgotten} forgotten, and counts"
            f" {account.sequence}",
        )
    for begin, end in events.holes:
        yield Finding(Kind.EVENT_MISSING, f"{whose} has no events {begin} to {end}")


async def _storage(database: Database, organisation_id: OrganisationId) -> int:
    total = after = 0
    while page := await database.read(verification.sizes, organisation_id, after, _ROWS):
        total += sum(size for _, size in page)
        after = page[-1][0]
    return total


@dataclass(slots=True)
class _Events:
    """What the events of an organisation are, counted."""

    first: int = 0
    last: int = 0
    by_month: Counter[str] = field(default_factory=Counter)
    holes: list[tuple[int, int]] = field(default_factory=list)
    """First and last missing number, up to `_MOST_HOLES` times."""


async def _count_events(database: Database, organisation_id: OrganisationId) -> _Events:
    counted = _Events()
    while page := await database.read(verification.events, organisation_id, counted.last, _ROWS):
        counted.first = counted.first or page[0].sequence
        for event in page:
            due = counted.last + 1 if counted.last else event.sequence
            if event.sequence > due and len(counted.holes) < _MOST_HOLES:
                counted.holes.append((due, event.sequence - 1))
            counted.last = event.sequence
        counted.by_month.update(e.period for e in page if e.kind == MESSAGE_STORED)
    return counted


async def _check_messages(
    database: Database, bodies: Bodies, organisations: set[OrganisationId], tally: Tally
) -> AsyncIterator[Finding]:
    after = 0
    all_have_bodies = tally.messages_with_body == await _count_messages(database)
    while page := await database.read(verification.messages, after, _PAGE):
        until = page[-1].number
        tally.messages += len(page)
        for message in page:
            if message.organisation_id not in organisations:
                yield Finding(Kind.ORGANISATION_MISSING, _named(message))
            key = BodyKey(message.ingest_id, message.organisation_id)
            if not all_have_bodies and await bodies.content(key) is None:
                yield Finding(
                    Kind.BODY_MISSING, f"{_named(message)} has no body {to_text(key.ingest_id)}"
                )
        for message in await database.read(verification.without_event, after, until):
            yield Finding(
                Kind.EVENT_MISSING, f"{_named(message)} is not told of by event {message.sequence}"
            )
        for message in await database.read(verification.without_search, after, until):
            yield Finding(Kind.SEARCH_MISSING, f"{_named(message)} cannot be searched for")
        after = until


async def _count_messages(database: Database) -> int:
    total, after = 0, 0
    while True:
        count, last = await database.read(verification.count, after, _COUNTED)
        total += count
        if last is None:
            return total
        after = last


async def _check_bodies(
    database: Database, bodies: Bodies, still_queued: Named, tally: Tally
) -> AsyncIterator[Finding]:
    async for page in _pages_of_keys(bodies):
        tally.bodies += len(page)
        messages_of = await database.read(verification.of_bodies, page)
        for group in _cut(page, _AT_A_TIME):
            checks = (_check_body(bodies, key, messages_of[key], tally) for key in group)
            for findings in await asyncio.gather(*checks):
                for finding in findings:
                    yield finding
        unnamed = [key for key, messages in messages_of.items() if not messages]
        queued = await still_queued([key.ingest_id for key in unnamed]) if unnamed else set()
        async for finding in _check_unnamed(database, unnamed, queued):
            yield finding


async def _pages_of_keys(bodies: Bodies) -> AsyncIterator[Sequence[BodyKey]]:
    after: BodyKey | None = None
    while keys := await bodies.keys(after, _KEYS):
        for page in _cut(keys, _PAGE):
            yield page
        after = keys[-1]


def _cut(keys: Sequence[BodyKey], size: int) -> Iterator[Sequence[BodyKey]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


async def _check_body(
    bodies: Bodies, key: BodyKey, messages: list[MessageFacts], tally: Tally
) -> list[Finding]:
    parts = await bodies.parts(key)
    if parts is None or parts.content is None:
        return []  # deleted meanwhile, or cut off: `_check_messages` tells of messages that name it
    tally.messages_with_body += len(messages)
    whose = f"body {to_text(key.ingest_id)} of organisation {to_text(key.organisation_id)}"
    if parts.raw is None:
        if await bodies.content(key) is None:  # it was deleted meanwhile
            return []
        return [Finding(Kind.BODY_MISSING, f"{whose}: the raw bytes are not there")]
    found = [
        Finding(Kind.BODY_DAMAGED, f"{whose}: the {part} are not what was kept")
        for part, blob in (("raw bytes", parts.raw), ("content", parts.content))
        if not _is_whole(blob)
    ]
    found += [
        Finding(
            Kind.MESSAGE_DIFFERS,
            f"{_named(message)} says {message.size} bytes, its body has {parts.raw.size}",
        )
        for message in messages
        if message.size != parts.raw.size
    ]
    content = _read(parts.content)
    if content is None:
        return [*found, Finding(Kind.BODY_DAMAGED, f"{whose}: the content cannot be read")]
    found += [
        Finding(
            Kind.MESSAGE_DIFFERS,
            f"{_named(message)} says {message.attachments} attachments, its content names"
            f" {len(content.attachments)}",
        )
        for message in messages
        if message.attachments != len(content.attachments)
    ]
    tally.attachments += len(content.attachments)
    for facts in content.attachments:
        found += await _check_attachment(bodies, key, facts, whose)
    unnamed = set(parts.attachment_ids) - {facts.id for facts in content.attachments}
    return found + [
        Finding(Kind.ATTACHMENT_UNNAMED, f"{whose}: no content names attachment {name}")
        for name in sorted(unnamed)
    ]


async def _check_attachment(
    bodies: Bodies, key: BodyKey, facts: AttachmentFacts, whose: str
) -> list[Finding]:
    blob = await bodies.attachment(key, facts.id)
    if blob is None:
        what = f"{whose}: attachment {facts.id} is not there"
        return [Finding(Kind.ATTACHMENT_MISSING, what)]
    if _is_whole(blob) and (blob.size, blob.sha256.hex()) == (facts.size, facts.sha256):
        return []
    return [Finding(Kind.BODY_DAMAGED, f"{whose}: attachment {facts.id} is not what was kept")]


async def _check_unnamed(
    database: Database, keys: list[BodyKey], queued: set[IngestId]
) -> AsyncIterator[Finding]:
    """Tell apart the body of a deleted message and the body of a mail that was never shown."""
    waiting_for_nothing = [key for key in keys if key.ingest_id not in queued]
    for organisation_id in {key.organisation_id for key in waiting_for_nothing}:
        ingest_ids = [
            key.ingest_id for key in waiting_for_nothing if key.organisation_id == organisation_id
        ]
        deleted = await _deleted(database, organisation_id, ingest_ids)
        for ingest_id in ingest_ids:
            whose = f"body {to_text(ingest_id)} of organisation {to_text(organisation_id)}"
            if ingest_id in deleted:
                yield Finding(Kind.BODY_LEFT_OVER, f"{whose} has no message; the sweep takes it")
            else:
                yield Finding(Kind.BODY_NEVER_STORED, f"{whose} has no message and never had one")


async def _deleted(
    database: Database, organisation_id: OrganisationId, ingest_ids: Sequence[IngestId]
) -> set[IngestId]:
    """Tell which of these mails, that have no message, had one that was deleted.

    An event tells of it: one whose message is gone, and whose message's id has the millisecond of
    the ingest id.
    """
    told: set[bytes] = set()
    wanted = {ingest_id[:6] for ingest_id in ingest_ids}
    after: int | None = 0
    while after is not None and not wanted <= told:
        milliseconds, after = await database.read(
            verification.stored_without_message, organisation_id, after, _ROWS
        )
        told |= milliseconds & wanted
    return {ingest_id for ingest_id in ingest_ids if ingest_id[:6] in told}


async def _check_search(database: Database) -> AsyncIterator[Finding]:
    after = 0
    while page := await database.read(verification.search_entries, after, _PAGE):
        for number in await database.read(verification.without_message, page):
            yield Finding(
                Kind.SEARCH_WITHOUT_MESSAGE, f"search has entry {number}, which is no message"
            )
        after = page[-1]
    async for fault in faults_of_search(database):
        yield Finding(Kind.SEARCH_DAMAGED, f"search: {fault}")


async def faults_of_search(database: Database) -> AsyncIterator[str]:
    """Look whether the words of the search index lead to the entries that have them, and tell."""
    looked = Look()
    while not looked.is_done:
        looked = await database.write_bulk(verification.look_at_search, looked)
        for fault in looked.faults:
            yield fault


def _named(message: MessageFacts) -> str:
    return (
        f"message {to_text(message.id)} (number {message.number}) of organisation"
        f" {to_text(message.organisation_id)}"
    )


def _is_whole(blob: Blob) -> bool:
    """Unpack piece by piece and compare; a damaged frame is answered, never raised."""
    digest = hashlib.sha256()
    size = 0
    unpacking = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW_BYTES)
    try:
        with unpacking.stream_reader(blob.zstd) as pieces:
            while size <= blob.size and (piece := pieces.read(_READ_BYTES)):
                digest.update(piece)
                size += len(piece)
    except zstandard.ZstdError:
        return False
    return size == blob.size and digest.digest() == blob.sha256


def _read(blob: Blob) -> Content | None:
    if not _is_whole(blob):  # so what is unpacked has the size it says
        return None
    try:
        return unpack_content(blob.zstd)
    except DamagedBlob:
        return None
