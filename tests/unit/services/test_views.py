import re

import pytest

from mailtape.domain.errors import NotFound
from mailtape.domain.ids import MessageId, OrganisationId
from mailtape.services import views

SECRET = "secret-of-the-tests"
VIEW = views.View(OrganisationId(b"o" * 16), MessageId(b"m" * 16))
NOW = 1_700_000_000


def test_a_link_is_good_for_ten_minutes() -> None:
    signature = views.sign(SECRET, VIEW, now_s=NOW)

    assert re.fullmatch(r"[A-Za-z0-9_-]+", signature)
    assert views.read(SECRET, signature, now_s=NOW) == VIEW
    assert views.read(SECRET, signature, now_s=NOW + 600) == VIEW
    with pytest.raises(NotFound):
        views.read(SECRET, signature, now_s=NOW + 601)


def test_no_character_of_a_link_can_be_changed() -> None:
    signature = views.sign(SECRET, VIEW, now_s=NOW)

    for place, character in enumerate(signature):
        changed = signature[:place] + ("A" if character != "A" else "B") + signature[place + 1 :]
        with pytest.raises(NotFound):
            views.read(SECRET, changed, now_s=NOW)


def test_a_link_of_another_installation_is_worth_nothing() -> None:
    signature = views.sign("another secret", VIEW, now_s=NOW)

    with pytest.raises(NotFound):
        views.read(SECRET, signature, now_s=NOW)


@pytest.mark.parametrize("wrong", ["", "x", "A" * 72, "é" * 72, "A" * 71 + "=", "A" * 10_000])
def test_what_is_no_link_is_not_found(wrong: str) -> None:
    with pytest.raises(NotFound):
        views.read(SECRET, wrong, now_s=NOW)
