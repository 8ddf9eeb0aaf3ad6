"""Words and the messages that hold them: search where there is no FTS5.

Two tables, written in the transaction that writes the message. `message_words` has a row for each
different word of a message; its key begins with a digest of organisation and word, then comes the
message's number, so the newest hits of a word lie at one end of one range, whatever else is there.
`message_search` keeps the words in their order, for phrases and to know what to take out.

A word is letters and digits, without case and without marks above and below them, as in FTS5's
`unicode61 remove_diacritics 2`. A digest has 64 bits, and hits are joined to the organisation's own
messages: two words that meet could show an organisation a message of its own too much, no more.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import filterfalse

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Text,
    and_,
    bindparam,
    column,
    delete,
    func,
    insert,
    or_,
    select,
    table,
    text,
)
from sqlalchemy.orm import Session

from mailtape.domain.ids import OrganisationId
from mailtape.rows.base import Id, Key, Number

ENTRIES = table(
    "message_search",
    column("number", Number),
    column("organisation_id", Id),
    column("words", Text),
)
_WORDS = table("message_words", column("word", Key), column("number", Number))
_MESSAGES = table(
    "messages", column("number", Number), column("organisation_id", Id), column("id", Id)
)

MOST_WORDS = 1000
"""Different words that a message is found by, the first ones. A thousand of a newspaper's page are
not reached by mail that people or programs write, and a batch of a hundred stays within seconds."""
_MOST_JOINED = 12
"""Words of a question that are looked up, the longest ones: a server joins up to 61 tables. The
others are looked for in the words of what those find."""
_KNOWN_DIGESTS = 16384
"""Words of organisations whose digests are at hand, for the mail of a program repeats itself; words
that come once push each other out. Some 4 MB."""
_PAGE = 100
_WORD = re.compile(r"[^\W_]+")

_NUMBERS = select(_MESSAGES.c.id, _MESSAGES.c.number).where(
    _MESSAGES.c.organisation_id == bindparam("of"),
    _MESSAGES.c.id.in_(bindparam("ids", expanding=True)),
)
_ADD_ENTRIES = insert(ENTRIES)
_ADD_WORDS = "INSERT INTO message_words (word, number) VALUES "
"""Followed by digests and numbers of ours, in hexadecimal and decimal: as parameters they cost five
times the work here and twice the time on the server."""
_WORDS_AT_ONCE = 2000
_LACKING_ROWS = text(
    "SELECT asked.number, COUNT(*) FROM JSON_TABLE(:pairs, '$[*]' COLUMNS ("
    "word CHAR(16) PATH '$[0]', number BIGINT PATH '$[1]')) AS asked"
    " LEFT JOIN message_words AS kept"
    " ON kept.word = UNHEX(asked.word) AND kept.number = asked.number"
    " WHERE kept.word IS NULL GROUP BY asked.number ORDER BY asked.number"
)
"""A join, because a list after IN is looked up word by word only up to some length, which differs
from server to server; beyond it every row of each word is read."""
_WORDS_ASKED_FOR = 10_000
_ROWS_COUNTED = 50_000
_BEFORE_ALL_ROWS = (bytes(8), -1)


def matching(
    organisation_id: OrganisationId, terms: Sequence[str]
) -> tuple[FromClause, tuple[ColumnElement[bool], ...], ColumnElement[int]]:
    """Say where hits come from, what they fulfil, and the number of their message.

    The server reads the rarest word's range and looks the others up in theirs.
    """
    split = [_split(term) for term in terms]
    words = sorted({word for term in split for word in term}, key=len, reverse=True)
    looked_up, rest = words[:_MOST_JOINED], words[_MOST_JOINED:]
    first, *others = (_WORDS.alias(f"word_{place}") for place in range(len(looked_up)))
    joined: FromClause = first
    conditions: list[ColumnElement[bool]] = [first.c.word == digest(organisation_id, looked_up[0])]
    for other, word in zip(others, looked_up[1:], strict=True):
        joined = joined.join(other, other.c.number == first.c.number)
        conditions.append(other.c.word == digest(organisation_id, word))
    in_order = [*(_line([word]) for word in rest), *(_line(term) for term in split if term[1:])]
    if in_order:
        joined = joined.join(ENTRIES, ENTRIES.c.number == first.c.number)
        conditions += [func.instr(ENTRIES.c.words, line) > 0 for line in in_order]
    return joined, tuple(conditions), first.c.number


def add(session: Session, organisation_id: OrganisationId, texts: Mapping[bytes, str]) -> None:
    """Enter messages that were just inserted: the text to be found by of each message id."""
    connection = session.connection()
    numbers = connection.execute(_NUMBERS, {"of": organisation_id, "ids": list(texts)})
    entries = []
    words: list[str] = []
    for message_id, number in numbers:
        line = _indexed(texts[message_id])
        entries.append({"number": number, "organisation_id": organisation_id, "words": line})
        words += [f"(x'{key.hex()}',{number})" for key in _digests(organisation_id, line)]
    connection.execute(_ADD_ENTRIES, entries)
    words.sort()  # in the order of the key, so that neighbours are written together
    for start in range(0, len(words), _WORDS_AT_ONCE):
        rows = words[start : start + _WORDS_AT_ONCE]
        connection.exec_driver_sql(_ADD_WORDS + ",".join(rows))


def remove(session: Session, numbers: Sequence[int]) -> None:
    """Take messages out; each one's words name the rows to delete, so nothing is searched for."""
    entries = session.execute(select(ENTRIES).where(ENTRIES.c.number.in_(numbers))).all()
    for number, organisation_id, line in entries:
        keys = _digests(organisation_id, line)
        session.execute(delete(_WORDS).where(_WORDS.c.word.in_(keys), _WORDS.c.number == number))
    session.execute(delete(ENTRIES).where(ENTRIES.c.number.in_(numbers)))


def lacking(session: Session, told: Iterable[tuple[int, bytes, str]]) -> list[int]:
    """Tell which messages have no entry, or one that does not begin with what is told of them."""
    expected = {number: (owner, begins_with) for number, owner, begins_with in told}
    found = session.execute(select(ENTRIES).where(ENTRIES.c.number.in_(expected)))
    right = {
        number
        for number, organisation_id, line in found
        if organisation_id == expected[number][0] and line.startswith(_indexed(expected[number][1]))
    }
    return [number for number in expected if number not in right]


@dataclass(frozen=True, slots=True)
class Look:
    """How far a look at the whole index has come, and what its last page was found to be."""

    entry: int = 0
    """The last entry looked at."""
    row: tuple[bytes, int] | None = None
    """The last row counted; None while entries are looked at."""
    balance: int = 0
    """Rows that entries lead to and that are there, less the rows counted since."""
    faults: tuple[str, ...] = ()
    is_done: bool = False


def look(session: Session, so_far: Look) -> Look:
    """Look at one more page: first at entries, each of whose words needs its row, then at rows.

    A row is in the table once, so rows that no entry leads to are as many as there are too many.
    """
    if so_far.row is None:
        return _look_at_entries(session, so_far)
    return _count_rows(session, so_far.balance, so_far.row)


def _look_at_entries(session: Session, so_far: Look) -> Look:
    page = session.execute(_PAGE_OF_ENTRIES, {"after": so_far.entry}).all()
    if not page:
        return Look(row=_BEFORE_ALL_ROWS, balance=so_far.balance)
    balance, faults = so_far.balance, []
    for keys_of in _in_parts({entry[0]: _digests(entry[1], entry[2]) for entry in page}):
        lacking = _lacking_rows(session, keys_of)
        balance += sum(map(len, keys_of.values())) - sum(lacking.values())
        faults += [f"{count} words of entry {n} do not lead to it" for n, count in lacking.items()]
    return Look(page[-1][0], balance=balance, faults=tuple(faults))


def _in_parts(keys_of: Mapping[int, list[bytes]]) -> Iterator[dict[int, list[bytes]]]:
    """Divide a page so that one question of the server does for a part."""
    part: dict[int, list[bytes]] = {}
    words = 0
    for number, keys in keys_of.items():
        if part and words + len(keys) > _WORDS_ASKED_FOR:
            yield part
            part, words = {}, 0
        part[number] = keys
        words += len(keys)
    yield part


def _lacking_rows(session: Session, keys_of: Mapping[int, list[bytes]]) -> dict[int, int]:
    """Count what is not there of these entries' rows, by entry; whole ones are left out."""
    pairs = [[key.hex(), number] for number, keys in keys_of.items() for key in keys]
    found = session.execute(_LACKING_ROWS, {"pairs": json.dumps(pairs)})
    return {row[0]: row[1] for row in found}


def _count_rows(session: Session, balance: int, after: tuple[bytes, int]) -> Look:
    word, number = after
    beyond = or_(_WORDS.c.word > word, and_(_WORDS.c.word == word, _WORDS.c.number > number))
    rest = select(_WORDS).where(beyond)
    last_of_page = rest.order_by(_WORDS.c.word, _WORDS.c.number).offset(_ROWS_COUNTED - 1).limit(1)
    if found := session.execute(last_of_page).first():
        return Look(row=(found[0], found[1]), balance=balance - _ROWS_COUNTED)
    balance -= session.scalar(select(func.count()).select_from(rest.subquery())) or 0
    too_many = -balance
    faults = (f"{too_many} words lead to entries that do not have them",) if too_many > 0 else ()
    return Look(faults=faults, is_done=True)


_PAGE_OF_ENTRIES = (
    select(ENTRIES)
    .where(ENTRIES.c.number > bindparam("after"))
    .order_by(ENTRIES.c.number)
    .limit(_PAGE)
)


@lru_cache(maxsize=_KNOWN_DIGESTS)
def digest(organisation_id: bytes, word: str) -> bytes:
    """Make the key that a word of an organisation has; 8 bytes."""
    return blake2b(organisation_id + word.encode(), digest_size=8).digest()


def _split(text: str) -> list[str]:
    """Take a text apart into words as they are indexed."""
    if not text.isascii():
        text = unicodedata.normalize("NFD", text.casefold())
        # Each character is asked about once, however often it stands in the text.
        marks = {mark for mark in set(text) if unicodedata.category(mark) == "Mn"}
        if marks:
            text = "".join(filterfalse(marks.__contains__, text))
    return _WORD.findall(text.lower())


def _indexed(text: str) -> str:
    """Put the words of a text in one line, up to as many different ones as are indexed."""
    words = _split(text)
    if len(words) > MOST_WORDS:
        words = _up_to_different(words, MOST_WORDS)
    return _line(words)


def _up_to_different(words: list[str], most: int) -> list[str]:
    seen: set[str] = set()
    for place, word in enumerate(words):
        seen.add(word)
        if len(seen) > most:
            return words[:place]
    return words


def _line(words: Sequence[str]) -> str:
    """Join words so that a phrase is a piece of the line: every word stands between spaces."""
    return f" {' '.join(words)} "


def _digests(organisation_id: bytes, line: str) -> list[bytes]:
    return [digest(organisation_id, word) for word in set(line.split())]
