"""A question about messages: the filters that list, count, wait and bulk delete share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MessageQuery:
    """Which messages of one organisation; every filter that is given must hold."""

    address: str | None = None
    """Envelope recipient in any case; without a plus-tag it stands for every tag."""
    words: str | None = None
    """`q`: all of these words, in any case; a phrase stands in double quotes."""
    since_sequence: int | None = None
    before_sequence: int | None = None
    since_us: int | None = None
    """Accepted after this time, microseconds since 1970 in UTC."""
    before_us: int | None = None
    unread: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the question is "all messages"."""
        return self == MessageQuery()
