"""MongoDB looked at from outside: what it is, whether it syncs, and what its refusals mean."""

import secrets
from typing import Any

from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure

from mailtape.domain.diagnosis import Check, NotRight, causes
from mailtape.stores.mongo_claims import MongoClaims
from mailtape.stores.mongo_connection import Database, driver_errors

_COLLECTION = "doctor"
_LOGIN = "The server at MONGODB_URL does not take the user and password in it; change these."
_NOT_ALLOWED = (
    "The user in MONGODB_URL may not do at MONGODB_DATABASE what is needed; grant it readWrite."
)
_REPLICA = "MONGODB_URL does not lead to a primary; name all members of the set in it."
_TOO_FEW = (
    "Too few members of the set at MONGODB_URL are up: no majority has what is written there."
)
_SENTENCES = {
    13: _NOT_ALLOWED,
    18: _LOGIN,
    64: _TOO_FEW,
    100: _TOO_FEW,
    10107: _REPLICA,
    13435: _REPLICA,
    8000: _LOGIN,
}


def durable(database: Database) -> Check:
    """Insert a document with the write concern that bodies are written with; read the answer."""

    async def ask() -> str:
        document = {"_id": f"doctor-{secrets.token_hex(8)}"}
        with driver_errors():
            answer = await database.command(
                "insert",
                _COLLECTION,
                documents=[document],
                writeConcern={"w": "majority", "j": True},
            )
            build = await database.command("buildInfo")
            await database.drop_collection(_COLLECTION)
        fault = fault_of(answer)
        if fault is not None:
            raise NotRight(fault)
        return f"{build.get('version', 'It')} answered for a majority and the journal."

    return Check("syncs what is written", ask, decides=True)


def room_for_claims(database: Database, max_bytes: int) -> Check:
    """See whether large mail that waits has reached its bound."""

    async def ask() -> str:
        claimed = await MongoClaims(database).octets()
        if claimed >= max_bytes:
            raise NotRight(
                f"{claimed:,} bytes of large mail wait; QUEUE_MAX_BYTES is {max_bytes:,}. Start"
                " more `mailtape worker`, or raise it."
            )
        return f"{claimed:,} bytes of large mail wait."

    return Check("would take a large mail now", ask)


def fault_of(answer: dict[str, Any]) -> str | None:
    """Say what is wrong with the answer to an insert of one document; None when nothing is."""
    failed = [*answer.get("writeErrors", []), answer.get("writeConcernError") or {}]
    codes = [one["code"] for one in failed if "code" in one]
    if codes:
        known = next((_SENTENCES[code] for code in codes if code in _SENTENCES), None)
        return known or (
            f"The server at MONGODB_URL did not confirm a write (error {codes[0]}); see its log."
        )
    if answer.get("ok") != 1 or answer.get("n") != 1:
        return "The server at MONGODB_URL did not write what it was given; see its log."
    return None


def explain(error: BaseException) -> str | None:
    """Name the setting that the driver's own error is about."""
    for each in causes(error):
        if isinstance(each, OperationFailure) and each.code in _SENTENCES:
            return _SENTENCES[each.code]
        if isinstance(each, ConfigurationError):
            return "MONGODB_URL is no address that can be understood; change it."
        if isinstance(each, ConnectionFailure):
            return "Nothing answers as MongoDB at MONGODB_URL; start it, or change the address."
    return None
