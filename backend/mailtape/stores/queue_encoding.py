"""How an envelope is written down beside the raw bytes of its mail, in every queue."""

import msgspec

from mailtape.domain.envelope import Envelope, Protocol
from mailtape.domain.ids import IngestId

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


def decode(encoded: bytes | memoryview) -> Envelope | None:
    """Read an envelope; None when it cannot be read."""
    try:
        return _decode(encoded)
    except msgspec.MsgspecError:
        return None


def decode_to_show(encoded: bytes | memoryview, ingest_id: bytes, size: int) -> Envelope:
    """Read an envelope to be shown; one that cannot be read shows what is known without it."""
    return decode(encoded) or Envelope(IngestId(ingest_id), 0, Protocol.SMTP, "", (), size)
