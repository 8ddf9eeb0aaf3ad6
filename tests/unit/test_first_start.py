import json
import stat
from pathlib import Path

import pytest

from mailtape import first_start
from mailtape.data_folder import DataFolder
from mailtape.first_start import ADMIN_EMAIL
from mailtape.settings import Settings, WrongSettings

JWT = "vN3kq0Zt7yXw2LrB9pHs4EdJ6mUcAf8G"
SALT = "Qe5Tz1Rb8WnYk3Vx7MgLs0Pd2Hj6CuFa"


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path)


def settings(**given: str) -> Settings:
    return Settings.model_validate(given)


def test_makes_up_two_different_secrets_once(folder: DataFolder) -> None:
    first = first_start.keys(folder, settings())
    second = first_start.keys(folder, settings())

    assert first == second
    assert first.jwt_secret != first.token_salt
    assert len(first.jwt_secret) >= 32
    assert stat.filemode(folder.secrets.stat().st_mode) == "-rw-------"


def test_another_installation_gets_other_secrets(tmp_path: Path) -> None:
    folders = [DataFolder(tmp_path / name) for name in "ab"]
    for folder in folders:
        folder.make()

    one, other = [first_start.keys(folder, settings()) for folder in folders]

    assert {one.jwt_secret, one.token_salt}.isdisjoint({other.jwt_secret, other.token_salt})


def test_a_given_secret_is_taken_and_never_written(folder: DataFolder) -> None:
    made_up = first_start.keys(folder, settings(jwt_secret=JWT))

    assert made_up.jwt_secret == JWT
    assert list(json.loads(folder.secrets.read_text())) == ["api_token_salt"]
    assert JWT not in folder.secrets.read_text()


def test_nothing_is_written_when_all_was_given(folder: DataFolder) -> None:
    keys = first_start.keys(folder, settings(jwt_secret=JWT, api_token_salt=SALT))

    assert (keys.jwt_secret, keys.token_salt) == (JWT, SALT)
    assert not folder.secrets.exists()


def test_a_secret_that_is_no_longer_given_is_made_up_beside_the_kept_one(
    folder: DataFolder,
) -> None:
    before = first_start.keys(folder, settings(jwt_secret=JWT))

    after = first_start.keys(folder, settings())

    assert after.token_salt == before.token_salt
    assert after.jwt_secret != JWT


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"jwt_secret": 5}'])
def test_a_damaged_file_is_named_and_never_written_over(folder: DataFolder, damage: bytes) -> None:
    folder.secrets.write_bytes(damage)

    with pytest.raises(WrongSettings) as wrong:
        first_start.keys(folder, settings())

    assert str(folder.secrets) in str(wrong.value)
    assert folder.secrets.read_bytes() == damage


def test_makes_up_an_administrator_and_a_token_once(folder: DataFolder) -> None:
    first = first_start.credentials(folder, settings())
    second = first_start.credentials(folder, settings())

    assert first.made_up
    assert not second.made_up
    assert (first.email, first.password, first.token) == (
        second.email,
        second.password,
        second.token,
    )
    assert first.email == ADMIN_EMAIL
    assert first.password is not None
    assert len(first.password) == 20
    assert folder.token.read_text() == f"{first.token}\n"
    assert stat.filemode(folder.token.stat().st_mode) == "-rw-------"


def test_a_lost_token_file_is_written_again_with_the_same_token(folder: DataFolder) -> None:
    first = first_start.credentials(folder, settings())
    folder.token.unlink()

    first_start.credentials(folder, settings())

    assert folder.token.read_text() == f"{first.token}\n"


def test_production_makes_up_nobody(folder: DataFolder) -> None:
    nobody = first_start.credentials(folder, settings(app_env="production"))

    assert (nobody.email, nobody.password, nobody.token) == (None, None, None)
    assert not folder.first_start.exists()
    assert not folder.token.exists()


def test_a_secret_does_not_show_when_printed(folder: DataFolder) -> None:
    made_up = first_start.credentials(folder, settings())
    keys = first_start.keys(folder, settings())

    printed = f"{made_up!r} {keys!r}"
    for secret in (made_up.password, made_up.token, keys.jwt_secret, keys.token_salt):
        assert secret is not None
        assert secret not in printed
