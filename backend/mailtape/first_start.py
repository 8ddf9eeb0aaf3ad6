"""The first start: what nobody has given is made up, once, and put where only its owner reads it.

* `secrets.json` holds the secrets that sign access tokens and hash tokens.
* `first-start.json` holds an administrator's e-mail address and password, and an API token.
* `token` holds that token alone, for `$(cat var/token)`.

All three are mode 0600 and written as a whole, by a process that owns the folder. What was given
is not in them. In production nothing is made up; the settings see to that before. None of this is
ever logged; who starts the program on a terminal is shown it once.
"""

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from pydantic import SecretStr

from mailtape.data_folder import DataFolder, put_private
from mailtape.services.tokens import Keys, new_text
from mailtape.settings import Settings, WrongSettings

_SECRET_OCTETS = 48
_PASSWORD_OCTETS = 15
"""Makes 20 characters of base64url: 120 bits."""
ADMIN_EMAIL = "admin@example.com"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The administrator and the token that every start makes sure of; None for none."""

    email: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)
    password_given: bool
    """Whether the operator fixed the password; a made-up one may be changed by its user."""
    token_given: bool
    """Whether the operator fixed the token; a made-up one may be revoked."""
    made_up: bool
    """Whether any of them was made up at this very start."""


def keys(folder: DataFolder, settings: Settings) -> Keys:
    """Take the secrets that were given, and for the rest those of the first start.

    Raises:
        OSError: the folder cannot be written.
        WrongSettings: `secrets.json` is damaged.
    """
    secret, salt = _text(settings.jwt_secret), _text(settings.api_token_salt)
    thought_of = {}
    if secret is None:
        thought_of["jwt_secret"] = secrets.token_urlsafe(_SECRET_OCTETS)
    if salt is None:
        thought_of["api_token_salt"] = secrets.token_urlsafe(_SECRET_OCTETS)
    kept, _ = _kept(folder.secrets, thought_of)
    return Keys(token_salt=salt or kept["api_token_salt"], jwt_secret=secret or kept["jwt_secret"])


def credentials(folder: DataFolder, settings: Settings) -> Credentials:
    """Take the administrator and the token that were given, and the rest as `keys` does.

    In production what was not given is none: `mailtape create-admin` and `generate-tokens` make
    them.

    Raises:
        OSError: the folder cannot be written.
        WrongSettings: `first-start.json` is damaged.
    """
    email = settings.mailtape_admin_email
    password, token = _text(settings.mailtape_admin_password), _text(settings.mailtape_api_token)
    if settings.in_production:
        return Credentials(
            email, password, token, password_given=True, token_given=True, made_up=False
        )
    thought_of = {}
    if email is None:
        thought_of["admin_email"] = ADMIN_EMAIL
    if password is None:
        thought_of["admin_password"] = secrets.token_urlsafe(_PASSWORD_OCTETS)
    if token is None:
        thought_of["api_token"] = new_text()
    kept, made_up = _kept(folder.first_start, thought_of)
    if token is None and not folder.token.exists():
        put_private(folder.token, f"{kept['api_token']}\n".encode())
    return Credentials(
        email or kept["admin_email"],
        password or kept["admin_password"],
        token or kept["api_token"],
        password_given=password is not None,
        token_given=token is not None,
        made_up=made_up,
    )


def _kept(path: Path, thought_of: dict[str, str]) -> tuple[dict[str, str], bool]:
    """Read what a file keeps, after adding what it lacks; tell whether something was added."""
    kept: dict[str, str] = {}
    if path.exists():
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except msgspec.MsgspecError:
            raise WrongSettings((f"{path} is damaged; restore it or move it away.",)) from None
    lacking = thought_of.keys() - kept.keys()
    if not lacking:
        return kept, False
    kept = thought_of | kept
    put_private(path, json.dumps(kept, indent=2).encode() + b"\n")
    return kept, True


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
