"""Which acknowledgements are sent for what was finished."""

import pytest

from mailtape.stores.rabbit_consuming import Delivery, acknowledgements


@pytest.mark.parametrize(
    ("finished", "words"),
    [
        ([], []),
        ([11, 12, 13], [(3, True)]),
        ([11, 12, 13, 14, 15], [(5, True)]),
        ([12, 13], [(2, False), (3, False)]),
        ([15, 11, 13, 12], [(3, True), (5, False)]),
        ([11], [(1, True)]),
    ],
)
def test_one_word_covers_only_what_is_finished_from_the_oldest_on(
    finished: list[int], words: list[tuple[int, bool]]
) -> None:
    held = {receipt: Delivery(receipt - 10, None) for receipt in range(11, 16)}

    assert acknowledgements(held, set(finished)) == words


def test_what_is_gone_already_is_no_gap() -> None:
    held = {receipt: Delivery(receipt - 10, None) for receipt in (11, 13, 14)}

    assert acknowledgements(held, {11, 13}) == [(3, True)]
