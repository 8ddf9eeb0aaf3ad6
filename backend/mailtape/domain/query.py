"""A question about messages: the filters that list, count, wait and bulk delete share."""

import re
import unicodedata
from dataclasses import dataclass

from mailtape.domain.errors import Invalid

_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


@dataclass(frozen=True, slots=True)
class WordLimits:
    """How much `q` may ask for."""

    characters: int = 400
    """Mailpit and Gmail's API take a URL's length; nobody types that much."""
    terms: int = 32
    """Words and phrases: each costs one walk through the index."""


@dataclass(frozen=True, slots=True)
class MessageQuery:
    """Which messages of one organisation; every filter that is given must hold."""

    address: str | None = None
    """Envelope recipient in any case; without a plus-tag it stands for every tag."""
    words: str | None = None
    """`q`: all of these words, in any case; a phrase stands in double quotes. Whoever takes it from
    a stranger has it checked by `check_words`."""
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

    @property
    def by_sequence(self) -> bool:
        """Whether the answer is in order of storing, not of acceptance.

        That is the order the search index is in, and the one that a bound on the sequence cuts
        without reading on. The two differ only where a mail was accepted earlier and stored later.
        """
        return (self.words, self.since_sequence, self.before_sequence) != (None, None, None)


def check_words(words: str, limits: WordLimits) -> None:
    """Refuse a `q` that asks for more than it may.

    Raises:
        Invalid: too long, or too many terms.
    """
    if len(words) > limits.characters:
        raise Invalid(f"q may have at most {limits.characters} characters.", field="q")
    if len(terms(words)) > limits.terms:
        raise Invalid(f"q may have at most {limits.terms} words and phrases.", field="q")


def terms(words: str) -> tuple[str, ...]:
    """Take `q` apart into words and phrases, each once, in order.

    Nothing in it is an operator but the double quote; one that is never closed reaches to the
    end. What has neither letter nor digit cannot be searched for and is left out, so that
    `invoice - paid` finds what `invoice paid` finds; when nothing is left, nothing is found.
    """
    found = (
        " ".join((phrase or word).replace("\0", " ").split())
        for phrase, word in _TERM.findall(words)
    )
    return tuple(dict.fromkeys(term for term in found if _has_letter_or_digit(term)))


def _has_letter_or_digit(term: str) -> bool:
    return any(unicodedata.category(character)[0] in "LN" for character in term)
