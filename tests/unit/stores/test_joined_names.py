"""Names are remembered, and no more of them than was said."""

from mailtape.stores.joined_names import JoinedNames


def test_a_transaction_is_found_by_its_last_name() -> None:
    names = JoinedNames()
    names.join("1a.2b.0", "4XyzQ")

    assert names.key(("4XyzQ", "qa@b")) == ("1a.2b.0", "qa@b")
    assert names.last("1a.2b.0") == names.last("4XyzQ") == "4XyzQ"


def test_a_queue_id_that_is_given_again_leaves_nothing_of_the_mail_before() -> None:
    names = JoinedNames()
    for number in range(1_000):
        names.join(f"{number}.0", "4Xyz")

    assert names.find("4Xyz") == "999.0"
    assert names.last("998.0") is None
    assert len(names._last) == len(names._first) == 1


def test_the_same_news_twice_is_no_news() -> None:
    names = JoinedNames()
    for _ in range(2):
        names.join("1.0", "4Xyz")

    assert names.last("1.0") == "4Xyz"
