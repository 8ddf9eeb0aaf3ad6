import pytest

from mailtape.domain.errors import Invalid
from mailtape.domain.query import MessageQuery, WordLimits, check_words, terms


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
    limits = WordLimits(terms=3)
    check_words('one "two three" four - one', limits)

    with pytest.raises(Invalid) as refused:
        check_words("one two three four", limits)

    assert refused.value.field == "q"


def test_refuses_more_characters_than_its_limit() -> None:
    limits = WordLimits(characters=10)
    check_words("x" * 10, limits)

    with pytest.raises(Invalid):
        check_words("x" * 11, limits)


def test_only_a_question_without_any_filter_is_empty() -> None:
    assert MessageQuery().is_empty
    assert not MessageQuery(unread=False).is_empty
    assert not MessageQuery(since_sequence=0).is_empty
