"""Search on MySQL, where it differs from FTS5: what is looked up, and what a check finds."""

import pytest
from sqlalchemy import URL, insert, text

import mysql
from installation import Installation
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.domain.query import MessageQuery
from mailtape.rows import messages, verification, word_index
from mailtape.rows.database import Session
from mailtape.services.verification import faults_of_search
from postroom import deposit_many

pytestmark = [
    pytest.mark.services,
    pytest.mark.parametrize("installation", ["mysql"], indirect=True),
]

MANY = 3_000
SHORT_SECONDS = 1.0
"""A transaction's time: all of these messages in one take several times as long."""


@pytest.mark.parametrize(
    ("words", "asked", "hits"),
    [
        ("Straße nach Αθήνα", "STRASSE αθηνα", 1),
        ("crème brûlée", "CREME brulee", 1),
        ("Привет, мир", "привет", 1),
        ("請求書 2026", "請求書", 1),
        ("a b c d e f g h i j k l m n o p", "a b c d e f g h i j k l m n o p", 1),
        ("a b c d e f g h i j k l m n o p", "a b c d e f g h i j k l m n o p q", 0),
        ("alpha beta gamma", '"alpha gamma"', 0),
        ("alphabet agamma", '"alpha gamma"', 0),
        ("one two one three", '"one three"', 1),
        ("x" * 300, "x" * 300, 1),
        ("x" * 300, "x" * 299, 0),
        ("100%", "1__", 0),
        ("it's o'clock", "o'clock", 1),
    ],
)
async def test_finds_words_whatever_their_script_and_number(
    installation: Installation, acme: OrganisationId, words: str, asked: str, hits: int
) -> None:
    await deposit_many(installation, acme, 1, words=words)
    query = MessageQuery(words=asked)

    assert await installation.parts.database.read(messages.count, acme, query) == hits


async def test_a_mail_is_found_by_its_first_thousand_words(
    installation: Installation, acme: OrganisationId
) -> None:
    (mail,) = await deposit_many(
        installation, acme, 1, words=" ".join(f"word{n}" for n in range(5000))
    )
    database = installation.parts.database

    for word, hits in (("word900", 1), ("word4000", 0)):
        query = MessageQuery(words=word)
        assert await database.read(messages.count, acme, query) == hits
    assert [fault async for fault in faults_of_search(database)] == []
    await database.write(messages.delete, acme, MessageId(mail), now=installation.clock())
    assert [fault async for fault in faults_of_search(database)] == []


@pytest.mark.parametrize(
    ("damage", "faults", "lacking", "without_message"),
    [
        ("DELETE FROM message_words WHERE number = 3 LIMIT 1", ["1 words of entry 3"], 0, 0),
        ("DELETE FROM message_words", [f"12 words of entry {n}" for n in range(1, 6)], 0, 0),
        ("INSERT INTO message_words VALUES (x'0000000000000000', 0)", ["1 words lead to"], 0, 0),
        ("INSERT INTO message_words VALUES (x'ffffffffffffffff', 9)", ["1 words lead to"], 0, 0),
        (
            "UPDATE message_words SET word = x'0000000000000001' WHERE number = 3 LIMIT 1",
            ["1 words of entry 3", "1 words lead to"],
            0,
            0,
        ),
        (
            "UPDATE message_search SET words = ' other ' WHERE number = 5",
            ["1 words of entry 5", "12 words lead to"],
            1,
            0,
        ),
        (
            "UPDATE message_search SET organisation_id = x'00' WHERE number = 1",
            ["12 words of entry 1", "12 words lead to"],
            1,
            0,
        ),
        ("DELETE FROM message_search LIMIT 1", ["12 words lead to"], 1, 0),
        ("DELETE FROM messages LIMIT 1", [], 0, 1),
    ],
)
@pytest.mark.parametrize("small_pages", [False, True])
async def test_a_check_finds_what_is_missing_or_too_much(
    installation: Installation,
    acme: OrganisationId,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    faults: list[str],
    lacking: int,
    without_message: int,
    *,
    small_pages: bool,
) -> None:
    if small_pages:
        monkeypatch.setattr(word_index, "_WORDS_ASKED_FOR", 25)
        monkeypatch.setattr(word_index, "_ROWS_COUNTED", 2)
    database = installation.parts.database
    await database.write(lambda s: s.execute(text("ALTER TABLE messages AUTO_INCREMENT = 1")))
    for _ in range(5):
        await deposit_many(installation, acme, 1, words="Order 0 is on its way")
    assert [fault async for fault in faults_of_search(database)] == []
    assert await database.read(verification.without_search, 0, 2**62) == []

    await database.write(lambda s: s.execute(text(damage)))

    found = [fault async for fault in faults_of_search(database)]
    assert [fault.split(" do not")[0].split(" entries")[0] for fault in found] == faults
    assert len(await database.read(verification.without_search, 0, 2**62)) == lacking
    entries = await database.read(verification.search_entries, 0, 50)
    missing = await database.read(verification.without_message, entries)
    assert len(missing) == without_message


async def test_a_check_of_many_messages_is_many_short_transactions(
    installation: Installation, migrated_mysql: URL, acme: OrganisationId
) -> None:
    database = installation.parts.database
    for first in range(1, MANY, 200):
        await database.write(_enter, acme, range(first, first + 200))

    async with mysql.opened(migrated_mysql, bulk_seconds=SHORT_SECONDS) as impatient:
        faults = [fault async for fault in faults_of_search(impatient)]

    assert faults == []


def _enter(session: Session, organisation_id: OrganisationId, numbers: range) -> None:
    lines = {
        n: f" {' '.join(f'word{n * 7 % 997 + place}' for place in range(77))} " for n in numbers
    }
    entries = [
        {"number": n, "organisation_id": organisation_id, "words": line}
        for n, line in lines.items()
    ]
    session.execute(insert(word_index.ENTRIES), entries)
    rows = (
        f"(x'{word_index.digest(organisation_id, word).hex()}',{n})"
        for n, line in lines.items()
        for word in line.split()
    )
    session.execute(text(f"INSERT INTO message_words (word, number) VALUES {','.join(rows)}"))


def test_words_are_no_one_else_s(installation: Installation) -> None:
    one, other = bytes(16), bytes(15) + b"\1"

    assert word_index.digest(one, "order") != word_index.digest(other, "order")
    assert word_index.digest(one, "order") == word_index.digest(one, "order")
