import pytest

from mailtape.domain.errors import Invalid
from mailtape.domain.query import LONGEST_WORDS, MOST_TERMS, MessageQuery, terms


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("invoice", ("invoice",)),
        ("Invoice  paid", ("Invoice", "paid")),
        ('"thank you" order', ("thank you", "order")),
        ('order"thank you"', ("order", "thank you")),
        ('"never closed phrase', ("never closed phrase",)),
        ("paid paid paid", ("paid",)),
        ("invoice - paid", ("invoice", "paid")),
        ("zürich 東京", ("zürich", "東京")),
        ("inv* NEAR(a b) subject:x OR ^y", ("inv*", "NEAR(a", "b)", "subject:x", "OR", "^y")),
        ("nul\0nul", ("nul nul",)),
        ("", ()),
        ('"" "  " !!! 😀 ""', ()),
    ],
)
def test_takes_words_and_phrases_apart(words: str, expected: tuple[str, ...]) -> None:
    assert terms(words) == expected


def test_refuses_more_words_than_its_limit() -> None:
    assert len(terms(" ".join(f"w{n}" for n in range(MOST_TERMS)))) == MOST_TERMS

    with pytest.raises(Invalid) as refused:
        terms(" ".join(f"w{n}" for n in range(MOST_TERMS + 1)))

    assert refused.value.field == "q"


def test_refuses_more_characters_than_its_limit() -> None:
    assert terms("x" * LONGEST_WORDS)

    with pytest.raises(Invalid):
        terms("x" * (LONGEST_WORDS + 1))


def test_only_a_question_without_any_filter_is_empty() -> None:
    assert MessageQuery().is_empty
    assert not MessageQuery(unread=False).is_empty
    assert not MessageQuery(since_sequence=0).is_empty
