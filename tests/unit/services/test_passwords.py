import asyncio

import pytest

from mailtape.domain.errors import Invalid, Unavailable
from mailtape.services.passwords import (
    MOST_CHARACTERS,
    Passwords,
    check_rules,
    common_passwords,
    hash_password,
    matches,
)


@pytest.mark.parametrize("password", ["x" * 8, "correct horse", "é" * MOST_CHARACTERS, "a\0" * 8])
def test_long_and_strange_passwords_are_taken(password: str) -> None:
    check_rules(password, email="ada@example.org")


@pytest.mark.parametrize("password", ["x" * 7, "", "x" * (MOST_CHARACTERS + 1)])
def test_short_and_endless_ones_are_not(password: str) -> None:
    with pytest.raises(Invalid) as refusal:
        check_rules(password, email="ada@example.org")

    assert refusal.value.code == "password_length"


def test_the_list_holds_what_is_tried_first_in_lower_case() -> None:
    listed = common_passwords()

    assert len(listed) >= 3_000
    assert {"password", "12345678", "qwertyuiop", "iloveyou", "trustno1"} <= listed
    assert all(len(password) >= 8 and password == password.casefold() for password in listed)


def test_a_hash_is_argon2id_and_salted() -> None:
    first, second = hash_password("the same one"), hash_password("the same one")

    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert first != second
    assert matches(first, "the same one")
    assert not matches(first, "another one")
    assert not matches("no hash at all", "the same one")


async def test_without_an_account_no_password_matches_not_even_the_one_tried_in_vain() -> None:
    passwords = Passwords(threads=1)

    matched = await passwords.matches(None, "nobody has this password")

    passwords.close()
    assert matched is False


async def test_turns_are_few_at_a_time_and_the_line_is_bounded() -> None:
    passwords = Passwords(threads=2)
    inside = most_inside = 0
    leave = asyncio.Event()

    async def take_a_turn() -> bool:
        nonlocal inside, most_inside
        try:
            async with passwords.turn():
                inside += 1
                most_inside = max(most_inside, inside)
                await leave.wait()
                inside -= 1
        except Unavailable:
            leave.set()
            return False
        return True

    taken = await asyncio.gather(*(take_a_turn() for _ in range(150)))

    passwords.close()
    assert most_inside == 2
    assert taken.count(False) == 50
