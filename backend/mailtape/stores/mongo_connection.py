"""The connection to MongoDB, and how its driver is spoken to.

Every write asks for a majority and the journal by name, whatever a server or an address says.
Every operation ends within `OPERATION_SECONDS`, retries included, so a server that is stopped or
cut off costs seconds. Only what every server of the wire protocol has is used: no TTL index, no
transaction, no upsert, strings without NUL, an `_id` that is a string and is asked for as equal.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pymongo import AsyncMongoClient, DeleteOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    OperationFailure,
    PyMongoError,
    WriteError,
)
from pymongo.monitoring import CommandListener

from mailtape import outages
from mailtape.domain.errors import StoreFull, Unavailable

Document = dict[str, Any]
Client = AsyncMongoClient[Document]
Database = AsyncDatabase[Document]
Collection = AsyncCollection[Document]

OPERATION_SECONDS = 8.0
_SELECTION_SECONDS = 2.0
_CONNECTION_SECONDS = 2.0
_CONNECTIONS = 50
_COMMAND_OCTETS = 4 * 2**20
"""Of documents in one insert: a slow disk must sync it well within the time of an operation."""

_ALREADY_THERE = 11000
_DISK_FULL_CODES = frozenset({14031})  # OutOfDiskSpace
_DISK_FULL_WORDS = ("no space left", "disk is full", "out of disk")
_OF_DOCUMENTS = frozenset(
    {
        2,  # BadValue
        9,  # FailedToParse
        14,  # TypeMismatch
        22,  # InvalidBSON
        52,  # DollarPrefixedFieldName
        53,  # InvalidIdField
        57,  # DottedFieldName
        10334,  # BSONObjectTooLarge
        17280,  # KeyTooLong
    }
)
"""What is the document's own fault, said of one document of a write."""


class DocumentRefused(Exception):
    """A document cannot be kept as it is. The driver's own error shows all of it, and stays out."""


def open_client(
    url: str,
    *,
    operation_seconds: float = OPERATION_SECONDS,
    listeners: Sequence[CommandListener] = (),
) -> Client:
    """Make a client for the running event loop; it connects when it is first used.

    Durability and time-outs are ours, not the address's: what is given by name goes before it.
    `listeners` are told of every command.

    Raises:
        ConfigurationError: the address cannot be understood.
    """
    return AsyncMongoClient(
        url,
        w="majority",
        journal=True,
        serverSelectionTimeoutMS=int(min(_SELECTION_SECONDS, operation_seconds) * 1000),
        connectTimeoutMS=int(min(_CONNECTION_SECONDS, operation_seconds) * 1000),
        socketTimeoutMS=int(operation_seconds * 1000),
        timeoutMS=int(operation_seconds * 1000),
        maxPoolSize=_CONNECTIONS,
        appname="mailtape",
        tz_aware=True,
        event_listeners=listeners,
    )


async def check_address(url: str) -> None:
    """Let the driver read an address; connects to nothing.

    Raises:
        ValueError: it cannot.
    """
    try:
        await open_client(url).close()
    except ConfigurationError as error:
        raise ValueError("no such address") from error


@contextmanager
def driver_errors() -> Iterator[None]:
    """Turn every error of the driver into one that the rims know, or into `DocumentRefused`.

    An error is a document's fault only where the server says it of that document. All others are
    the server's, or its operator's, and there is no list of them: the log has the server's code.
    """
    try:
        yield
    except PyMongoError as error:
        raise _from_mongo(error) from None  # a document is no part of a traceback


def _from_mongo(error: PyMongoError) -> Exception:
    codes = _codes(error)
    if any(_is_full(code, words) for code, words in codes):
        return StoreFull("There is no room to keep this.")
    named = [code for code, _ in codes if code not in {None, _ALREADY_THERE}]
    if isinstance(error, WriteError | BulkWriteError) and named and _OF_DOCUMENTS.issuperset(named):
        return DocumentRefused(f"MongoDB refuses a document of ours (code {named[0]}).")
    others = [code for code in named if code not in _OF_DOCUMENTS]
    outages.tell("mongodb.unusable", others[0] if others else type(error).__name__)
    return Unavailable("MongoDB cannot be used at the moment.")


def _codes(error: PyMongoError) -> list[tuple[int | None, str]]:
    """List the server's codes with its words, of a bulk write one for each document."""
    if isinstance(error, BulkWriteError):
        failed = (error.details or {}).get("writeErrors", [])
        return [(one.get("code"), str(one.get("errmsg"))) for one in failed]
    return [(error.code, str(error))] if isinstance(error, OperationFailure) else []


async def insert_missing(collection: Collection, documents: Sequence[Document]) -> set[str]:
    """Insert what is not there yet; durable on return. Tell the ids that were there already.

    Call it within `driver_errors`.
    """
    there: set[str] = set()
    for group in _groups(documents):
        try:
            await collection.insert_many(group, ordered=False)
        except BulkWriteError as error:
            # What was there is no failure; all else is, and so is a majority that did not answer.
            failed = (error.details or {}).get("writeErrors", [])
            if not failed or (error.details or {}).get("writeConcernErrors"):
                raise
            if any(one["code"] != _ALREADY_THERE for one in failed):
                raise
            there.update(group[one["index"]]["_id"] for one in failed)
    return there


async def delete_all(collection: Collection, ids: Sequence[str], at_a_time: int) -> None:
    """Delete the documents with these ids; durable on return.

    One statement an id, not `$in`: each is a look into the index everywhere. `at_a_time` bounds
    what one command must do within its time. Call it within `driver_errors`.
    """
    for first in range(0, len(ids), at_a_time):
        statements = [DeleteOne({"_id": one}) for one in ids[first : first + at_a_time]]
        await collection.bulk_write(statements, ordered=False)


def _groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    octets = 0
    for document in documents:
        size = sum(len(value) for value in document.values() if isinstance(value, bytes))
        if group and octets + size > _COMMAND_OCTETS:
            yield group
            group, octets = [], 0
        group.append(document)
        octets += size
    if group:
        yield group


def _is_full(code: int | None, message: str) -> bool:
    return code in _DISK_FULL_CODES or any(words in message.lower() for words in _DISK_FULL_WORDS)
