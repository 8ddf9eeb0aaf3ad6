"""Organisations of a test's own, seen over HTTP by whoever owns them."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from inbox import Inbox
from people import PASSWORD


class Owner(Inbox):
    """Somebody who may do everything in an organisation."""

    email: str
    """Who signed in; not for the owner of a token."""

    def address(self) -> str:
        """Take an address that nobody else has."""
        return str(self.take()["address"])

    def take(self) -> dict[str, Any]:
        """Take an address that nobody else has; gives all that is told of it."""
        made = self.client.post("/addresses", json={"local_part": secrets.token_hex(8)})
        assert made.status_code == 201, made.text
        told: dict[str, Any] = made.json()
        return told

    def used(self) -> int:
        """Tell how many mails were counted this month."""
        return int(self.get("/usage").json()["emails"]["used"])

    def messages(self, address: str) -> list[dict[str, Any]]:
        """Open all messages of an address."""
        listed = self.get("/messages", address=address).json()["items"]
        return [self.get(f"/messages/{item['id']}").json() for item in listed]

    def only_message(self, address: str) -> dict[str, Any]:
        """Open the message of an address that has one."""
        (message,) = self.messages(address)
        return message


@contextmanager
def owning(http: str, token: str) -> Iterator[Owner]:
    """Speak as the owner of a token for as long as the context lasts."""
    owner = Owner(http, token)
    with owner.client:
        yield owner


@contextmanager
def registered(http: str) -> Iterator[Owner]:
    """Register somebody with a new organisation, and speak as them."""
    body = {
        "email": f"{secrets.token_hex(8)}@example.org",
        "password": PASSWORD,
        "organization": secrets.token_hex(8),
        "cookie": False,
    }
    made = httpx.post(http + "/auth/register", json=body, timeout=30, trust_env=False)
    assert made.status_code == 201, made.text
    with owning(http, made.json()["access_token"]) as owner:
        owner.email = body["email"]
        yield owner
