"""Identifiers: UUIDs as 16 raw bytes inside, canonical text outside.

Sixteen bytes are what both databases keep and compare; the text form exists only at the rim.
Ids of messages are UUIDv7 (RFC 9562, section 5.7) made from the time of acceptance, so that order
by id is order of acceptance, and from what the message is, so that a replay makes the same id.
"""

import hashlib
import secrets
import uuid
from typing import NewType

OrganisationId = NewType("OrganisationId", bytes)
UserId = NewType("UserId", bytes)
SessionId = NewType("SessionId", bytes)
TokenId = NewType("TokenId", bytes)
AddressId = NewType("AddressId", bytes)
IngestId = NewType("IngestId", bytes)
MessageId = NewType("MessageId", bytes)


def uuid7(unix_ms: int, chance: bytes) -> bytes:
    """Build a UUIDv7 from Unix milliseconds and ten bytes of chance (74 bits of them are kept)."""
    tail = int.from_bytes(chance[:10], "big")
    rand_a = tail >> 68
    rand_b = tail & ((1 << 62) - 1)
    value = (unix_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b
    return value.to_bytes(16, "big")


def new_id(unix_ms: int) -> bytes:
    """Build a UUIDv7 that nobody can guess."""
    return uuid7(unix_ms, secrets.token_bytes(10))


def message_id(accepted_ms: int, ingest_id: IngestId, recipient: str) -> MessageId:
    """Build the id of one accepted recipient's message; the same facts give the same id."""
    return MessageId(
        uuid7(accepted_ms, hashlib.sha256(ingest_id + recipient.encode()).digest()[:10])
    )


def to_text(identifier: bytes) -> str:
    """Write an id as the outside sees it."""
    digits = identifier.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def from_text(text: str) -> bytes | None:
    """Read an id from outside; None when it is none, so that the caller answers "not found"."""
    if len(text) != 36:
        return None
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return None
    return parsed.bytes if str(parsed) == text.lower() else None
