"""A parsing process: bytes in, what was understood out, over one socket.

It opens no file, no database and no connection of its own, so nothing that a mail can do to a
parser reaches further than this process; its parent holds the deadline and kills it. It ends when
its parent's end of the socket closes.

Frames are those of `multiprocessing.connection`. The first one says that the process is ready;
inside the others is MessagePack: a list of raw mails one way, a list of `Packed` the other.
"""

import os
import resource
import signal
import sys
from multiprocessing.connection import Connection

import msgspec

from mailtape.mime.limits import Limits
from mailtape.mime.pack import pack
from mailtape.mime.understand import Understood, understand, unparsed

_NICENESS = 10  # the wire comes first: a mail that is understood later is late, not lost


def main(arguments: list[str]) -> None:
    """Serve the socket that was inherited as a file descriptor until the parent hangs up."""
    descriptor, memory_bytes, limits_json = arguments
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever ends the whole group ends the parent
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    limits = msgspec.json.decode(limits_json, type=Limits)
    connection = Connection(int(descriptor))
    decode = msgspec.msgpack.Decoder(list[bytes]).decode
    encode = msgspec.msgpack.Encoder().encode
    answer = b"ready"
    while True:
        try:
            connection.send_bytes(answer)
            mails = decode(connection.recv_bytes())
        except (EOFError, ConnectionError):  # the parent has gone; whoever starts next asks again
            return
        answer = encode([pack(raw, _read(raw, limits)) for raw in mails])


def _read(raw: bytes, limits: Limits) -> Understood:
    """Understand a mail; a parser that panics leaves it unparsed.

    A panic of a Rust library is an exception outside of `Exception`.
    """
    try:
        return understand(raw, limits)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException:  # noqa: BLE001 - whatever a stranger's bytes can provoke
        return unparsed(raw, limits)


if __name__ == "__main__":
    main(sys.argv[1:])
