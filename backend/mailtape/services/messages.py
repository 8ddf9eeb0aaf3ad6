"""Step 6 of a message's way: ask for it; and change or delete what is there.

Everything is asked for by an organisation. What another organisation owns is answered exactly as
what does not exist: `NotFound`.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from mailtape.domain.errors import Invalid, NotFound
from mailtape.domain.ids import IngestId, MessageId, OrganisationId
from mailtape.domain.message import AttachmentFacts, Content, Listed, Reception
from mailtape.domain.query import MessageQuery
from mailtape.mime.pack import unpack_content
from mailtape.ports.bodies import Blob, Bodies, BodyKey
from mailtape.rows import messages
from mailtape.rows.database import Database
from mailtape.services.wakeups import Wakeups

MOST_TAGS = 20
LONGEST_TAG = 64
"""Characters."""

_CHUNK = 50
"""Messages a transaction deletes: a person's change waits for one of these at the most. It takes
15 ms, most of them in the search index, whose entries are taken out word by word."""
_LOOK_AGAIN_SECONDS = 15.0
"""Who waits looks by itself this often, as event streams do: an announcement may be lost."""
_POSITION_OCTETS = 16
_MARK_OF_A_SEQUENCE = bytes(8)
"""How a position that is no id begins: an id begins with its time, which was never 0."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and where the next one begins; None when this was the last."""

    items: list[Listed]
    next: bytes | None


@dataclass(frozen=True, slots=True)
class Opened:
    """One message with what it says."""

    message: Listed
    reception: Reception
    content: Content


async def find(
    database: Database,
    organisation_id: OrganisationId,
    query: MessageQuery,
    *,
    limit: int,
    after: bytes | None = None,
) -> Page:
    """List what matches, newest first; `after` is the `next` of an earlier page.

    Raises:
        Invalid: `after` comes from elsewhere, or the words are too many.
    """
    start = None if after is None else _position(query, after)
    items = await database.read(messages.find, organisation_id, query, limit=limit + 1, after=start)
    if len(items) <= limit:
        return Page(items, None)
    items.pop()
    return Page(items, _octets(messages.position(query, items[-1])))


async def count(database: Database, organisation_id: OrganisationId, query: MessageQuery) -> int:
    """Count what matches."""
    return await database.read(messages.count, organisation_id, query)


async def wait(
    database: Database,
    wakeups: Wakeups,
    organisation_id: OrganisationId,
    query: MessageQuery,
    *,
    seconds: float,
    check: Callable[[], Awaitable[None]],
) -> Listed | None:
    """Give the oldest match, at once or as soon as one is stored; None when none came in time.

    The watch is open before the first look, so that nothing can be stored unseen between a look
    and a sleep. Every later look reads only what was stored since the one before; the last is when
    the time is over. Ends early, with None, when the process ends.

    `check` raises when the reader's leave has ended. Once the wait has begun it is asked after
    each look: what was stored after a revocation is not shown any more.

    Raises:
        TooMany: the organisation has too many watchers.
        Refused, Unavailable: `check` said so.
    """
    deadline = time.monotonic() + seconds
    seen: int | None = None
    waited = False
    async with wakeups.watch(organisation_id) as woken:
        while True:
            found, seen = await database.read(
                messages.first_match_after, organisation_id, query, seen
            )
            if waited:
                await check()
            left = deadline - time.monotonic()
            if found is not None or left <= 0 or wakeups.closed:
                return found
            await woken.wait(min(left, _LOOK_AGAIN_SECONDS))
            waited = True


async def get(
    database: Database, bodies: Bodies, organisation_id: OrganisationId, message_id: MessageId
) -> Opened:
    """Open one message.

    Raises:
        NotFound: there is none, or its body is gone.
    """
    found = await database.read(messages.get, organisation_id, message_id)
    if found is None:
        raise _no_message()
    message, reception = found
    key = BodyKey(message.transaction, organisation_id)
    return Opened(message, reception, await _content(bodies, key))


async def raw(
    database: Database, bodies: Bodies, organisation_id: OrganisationId, message_id: MessageId
) -> Blob:
    """Fetch the bytes that arrived in DATA.

    Raises:
        NotFound: there is no such message, or its body is gone.
    """
    key = await _body_key(database, organisation_id, message_id)
    blob = await bodies.raw(key)
    if blob is None:
        raise _no_body()
    return blob


async def content(
    database: Database, bodies: Bodies, organisation_id: OrganisationId, message_id: MessageId
) -> Content:
    """Fetch what a message says.

    Raises:
        NotFound: there is no such message, or its body is gone.
    """
    return await _content(bodies, await _body_key(database, organisation_id, message_id))


async def attachment(
    database: Database,
    bodies: Bodies,
    organisation_id: OrganisationId,
    message_id: MessageId,
    attachment_id: str,
) -> tuple[AttachmentFacts, Blob]:
    """Fetch one attachment and what is known of it.

    Raises:
        NotFound: there is no such message or attachment, or its body is gone.
    """
    key = await _body_key(database, organisation_id, message_id)
    for facts in (await _content(bodies, key)).attachments:
        if facts.id == attachment_id:
            blob = await bodies.attachment(key, attachment_id)
            if blob is None:
                raise _no_body()
            return facts, blob
    raise NotFound("There is no such attachment.")


async def update(
    database: Database,
    organisation_id: OrganisationId,
    message_id: MessageId,
    *,
    read: bool | None = None,
    tags: list[str] | None = None,
) -> Listed:
    """Change what is given and return the message; a tag that is named twice is set once.

    Raises:
        Invalid: too many tags, or one that is empty, too long or holds a control character.
        NotFound: there is no such message.
    """
    if tags is not None:
        tags = list(dict.fromkeys(tags))
        _check_tags(tags)
    found = await database.write(messages.update, organisation_id, message_id, read=read, tags=tags)
    if found is None:
        raise _no_message()
    return found


async def delete(
    database: Database,
    bodies: Bodies,
    organisation_id: OrganisationId,
    message_id: MessageId,
    *,
    now: datetime,
) -> None:
    """Delete one message, and its body with the last message that came with it.

    Rows first: killed in between, a body is left that no row names, which the sweep takes.

    Raises:
        NotFound: there is no such message.
    """
    deleted = await database.write(messages.delete, organisation_id, message_id, now=now)
    if not deleted.messages:
        raise _no_message()
    await _delete_bodies(bodies, organisation_id, deleted.bodiless)


async def delete_matching(
    database: Database,
    bodies: Bodies,
    organisation_id: OrganisationId,
    query: MessageQuery,
    *,
    now: datetime,
) -> int:
    """Delete all that matches and tell how many; in chunks, newest first.

    What arrives meanwhile is newer than where the deletion stands, and stays. When it raises,
    some are deleted; the same call goes on with the rest.
    """
    total = 0
    after: messages.Position | None = None
    while True:
        deleted = await database.write_bulk(
            messages.delete_matching, organisation_id, query, limit=_CHUNK, after=after, now=now
        )
        await _delete_bodies(bodies, organisation_id, deleted.bodiless)
        total += deleted.messages
        after = deleted.last
        if deleted.messages < _CHUNK:
            return total


def _position(query: MessageQuery, after: bytes) -> messages.Position:
    is_sequence = after.startswith(_MARK_OF_A_SEQUENCE) and after[8:9] < b"\x80"
    if len(after) != _POSITION_OCTETS or is_sequence != query.by_sequence:
        raise Invalid("This list gave no such cursor.", code="invalid_cursor", field="cursor")
    return int.from_bytes(after[8:], "big") if is_sequence else MessageId(after)


def _octets(position: messages.Position) -> bytes:
    if isinstance(position, bytes):
        return position
    return _MARK_OF_A_SEQUENCE + position.to_bytes(8, "big")


def _check_tags(tags: list[str]) -> None:
    if len(tags) > MOST_TAGS:
        raise Invalid(f"A message may have at most {MOST_TAGS} tags.", field="tags")
    for tag in tags:
        if not 1 <= len(tag) <= LONGEST_TAG or not tag.isprintable():
            raise Invalid(f"A tag has 1 to {LONGEST_TAG} printable characters.", field="tags")


async def _body_key(
    database: Database, organisation_id: OrganisationId, message_id: MessageId
) -> BodyKey:
    transaction = await database.read(messages.transaction_of, organisation_id, message_id)
    if transaction is None:
        raise _no_message()
    return BodyKey(transaction, organisation_id)


async def _content(bodies: Bodies, key: BodyKey) -> Content:
    blob = await bodies.content(key)
    if blob is None:
        raise _no_body()
    return unpack_content(blob.zstd)


async def _delete_bodies(
    bodies: Bodies, organisation_id: OrganisationId, transactions: tuple[IngestId, ...]
) -> None:
    if transactions:
        await bodies.delete([BodyKey(ingest_id, organisation_id) for ingest_id in transactions])


def _no_message() -> NotFound:
    return NotFound("There is no such message.")


def _no_body() -> NotFound:
    return NotFound("The message is there, but what it said is gone.", code="body_gone")
