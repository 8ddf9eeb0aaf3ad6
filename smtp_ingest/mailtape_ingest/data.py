"""The DATA phase: reads one message from the wire, without I/O.

Promises, for any chunking and in time linear in the bytes:

* The message ends at CRLF.CRLF and nowhere else (RFC 5321, section 4.1.1.4). A dot between bare
  line feeds or carriage returns is text: whoever takes it for the end lets one mail smuggle
  another past the hosts that do not (CVE-2023-51764, CVE-2024-27305).
* The bytes come out as the sender's program made them: dots unstuffed (section 4.5.2), nothing
  else touched, lines of any length.
* A message over the limit is read to its end, so that the client is still there to hear the
  refusal, but not kept; past `PATIENCE` times the limit it is given up.
* So is one for which the budget, which all messages under way share, has no room. Reading it later
  instead would not do: when all wait for room that only a finished message gives back, none ever
  finishes.
"""

from enum import Enum

PATIENCE = 4
"""How many times the limit a client may send before we stop listening."""

_END = b"\r\n.\r\n"


class Progress(Enum):
    """How far a message has come."""

    READING = "reading"
    ENDED = "ended"
    GIVEN_UP = "given up"
    """The client sends without end; nothing more of it can be understood."""


class Budget:
    """How many octets of messages may be kept at a time; all that share it draw on it."""

    __slots__ = ("_most", "taken")

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    def has_room(self, octets: int) -> bool:
        """Tell whether so many could be taken now."""
        return self.taken + octets <= self._most

    def take(self, octets: int) -> bool:
        """Take so many when there is room for all of them."""
        if not self.has_room(octets):
            return False
        self.taken += octets
        return True

    def give_back(self, octets: int) -> None:
        """Give back what was taken."""
        self.taken -= octets


class DataReader:
    """Takes the bytes after the reply 354, up to the dot. `limit` counts unstuffed octets.

    After `ENDED`, `message` holds the bytes (None when there were more than the limit, or, with
    `crowded_out`, than the budget had room for) and `remainder` what the client sent behind the
    dot: its next commands. Whoever uses a reader gives `taken` back to the budget in the end.
    """

    __slots__ = (
        "_budget",
        "_held",
        "_kept",
        "_limit",
        "_patience",
        "crowded_out",
        "message",
        "remainder",
        "taken",
    )

    def __init__(self, limit: int, budget: Budget) -> None:
        self._budget = budget
        self.taken = 0
        self.crowded_out = False
        self._limit = limit
        self._patience = limit * PATIENCE
        # The line before the first one ended with the command DATA: with its CRLF in front, a dot
        # that opens the message needs no rule of its own.
        self._held = b"\r\n"
        self._kept: bytearray | None = bytearray()
        self.message: bytes | None = None
        self.remainder = b""

    def feed(self, data: bytes) -> Progress:
        """Take the next bytes; not to be called again unless it answers READING."""
        window = self._held + data
        end = window.find(_END)
        # Counted to the dot only, so that how the bytes were cut makes no difference.
        if end >= 0 and end + len(_END) - len(self._held) <= self._patience:
            self._keep(window[: end + 2])
            self.remainder = window[end + len(_END) :]
            if self._kept is not None:
                self.message = bytes(memoryview(self._kept)[2:])
            return Progress.ENDED
        self._patience -= len(data)
        if self._patience < 0:
            self._let_go()
            return Progress.GIVEN_UP
        undecided = _undecided(window)
        self._held = window[undecided:]
        self._keep(window[:undecided])
        return Progress.READING

    def _keep(self, lines: bytes) -> None:
        """Keep what can no longer be part of the end, as long as there is room."""
        if self._kept is None:
            return
        text = lines.replace(b"\r\n.", b"\r\n")
        if len(self._kept) + len(text) > self._limit + 2:  # 2: the CRLF put in front
            self._let_go()
        elif not self._budget.take(len(text)):
            self._let_go()
            self.crowded_out = True
        else:
            self.taken += len(text)
            self._kept += text

    def _let_go(self) -> None:
        """Keep nothing of this message any more."""
        self._kept = None
        self._budget.give_back(self.taken)
        self.taken = 0


def _undecided(window: bytes) -> int:
    """Find where a beginning of CRLF.CRLF stands at the very end; there the next chunk decides."""
    for length in (4, 3, 2, 1):
        if window.endswith(_END[:length]):
            return len(window) - length
    return len(window)
