"""Search on MySQL, where it differs from FTS5: what is looked up, and what a check finds."""

import pytest
from sqlalchemy import text

from installation import Installation
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.domain.query import MessageQuery
from mailtape.rows import messages, verification, word_index
from postroom import deposit_many

pytestmark = [
    pytest.mark.services,
    pytest.mark.parametrize("installation", ["mysql"], indirect=True),
]


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
    assert await database.write(verification.search_is_sound)
    await database.write(messages.delete, acme, MessageId(mail), now=installation.clock())
    assert await database.write(verification.search_is_sound)


@pytest.mark.parametrize(
    ("damage", "sound", "lacking", "without_message"),
    [
        ("DELETE FROM message_words LIMIT 1", 0, 0, 0),
        ("INSERT INTO message_words VALUES (x'0000000000000001', 1)", 0, 0, 0),
        ("UPDATE message_search SET words = ' other ' LIMIT 1", 0, 1, 0),
        ("UPDATE message_search SET organisation_id = x'00' LIMIT 1", 0, 1, 0),
        ("DELETE FROM message_search LIMIT 1", 0, 1, 0),
        ("DELETE FROM messages LIMIT 1", 1, 0, 1),
    ],
)
async def test_a_check_finds_what_is_missing_or_too_much(
    installation: Installation,
    acme: OrganisationId,
    damage: str,
    sound: int,
    lacking: int,
    without_message: int,
) -> None:
    for _ in range(5):
        await deposit_many(installation, acme, 1, words="Order 0 is on its way")
    database = installation.parts.database
    assert await database.write(verification.search_is_sound)
    assert await database.read(verification.without_search, 0, 2**62) == []

    await database.write(lambda s: s.execute(text(damage)))

    assert await database.write(verification.search_is_sound) == sound
    assert len(await database.read(verification.without_search, 0, 2**62)) == lacking
    entries = await database.read(verification.search_entries, 0, 50)
    missing = await database.read(verification.without_message, entries)
    assert len(missing) == without_message


def test_words_are_no_one_else_s(installation: Installation) -> None:
    one, other = bytes(16), bytes(15) + b"\1"

    assert word_index.digest(one, "order") != word_index.digest(other, "order")
    assert word_index.digest(one, "order") == word_index.digest(one, "order")
