"""The names of transactions that were renamed, as far as this process remembers them.

Postfix's queue id is not known when a recipient is accepted; what is held then is held under its
`instance`, and asked about later by the queue id.
"""

from collections import OrderedDict

from mailtape.ports.counters import Key

_MOST = 100_000
"""Postfix delivers the newest first, and a mail whose name is forgotten is counted anew."""
_MOST_CHARACTERS = 255


def may_be_joined(name: str) -> bool:
    """Whether a name can be a queue id, so that it may have been another before.

    Whoever looks for one elsewhere is spared the way for Postfix's instances and our own names,
    which have dots and colons in them.
    """
    return name.isalnum() and name.isascii() and len(name) <= _MOST_CHARACTERS


class JoinedNames:
    """Which name a transaction is held under; bounded, the oldest is forgotten first."""

    def __init__(self) -> None:
        self._first: OrderedDict[str, str] = OrderedDict()
        self._last: dict[str, str] = {}

    def join(self, transaction: str, became: str) -> None:
        """Remember that what is called `became` is held under `transaction`."""
        before = self._first.get(became)
        if before is not None and self._last.get(before) == became:
            del self._last[before]  # Postfix gives short queue ids to one mail after the other
        self._first[became] = transaction
        self._last[transaction] = became
        if len(self._first) > _MOST:
            forgotten, first = self._first.popitem(last=False)
            if self._last.get(first) == forgotten:
                del self._last[first]

    def find(self, name: str) -> str | None:
        """Tell the name it is held under; None when nothing was heard of this one."""
        return self._first.get(name)

    def last(self, name: str) -> str | None:
        """Tell what a transaction was called last; None when it had but one name."""
        return self._last.get(self._first.get(name, name))

    def key(self, key: Key) -> Key:
        """Write a key with the name that it is held under."""
        first = self._first.get(key[0])
        return key if first is None else (first, key[1])
