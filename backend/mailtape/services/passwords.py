"""Passwords: what is taken for one, and the costly hash that keeps them.

Argon2id with 19 MiB and two passes, the lesser of the two that RFC 9106 and OWASP agree on for
servers: about 20 ms and 19 MiB each, off the event loop and few at a time, so that a flood of
sign-ins costs its senders time and us neither memory nor responsiveness.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mailtape.domain.errors import Invalid, Unavailable

FEWEST_CHARACTERS = 8
MOST_CHARACTERS = 1_000
_MOST_WAITING = 100

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def check_rules(password: str, *, email: str) -> None:
    """Pass a password that may be chosen.

    Raises:
        Invalid: too short, too long, among the common ones, or the e-mail address itself.
    """
    if not FEWEST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        raise Invalid(
            f"A password has {FEWEST_CHARACTERS} to {MOST_CHARACTERS:,} characters.",
            code="password_length",
            field="password",
        )
    folded = password.casefold()
    local_part = email.rpartition("@")[0].casefold()
    if folded in common_passwords() or folded in {email.casefold(), local_part}:
        raise Invalid(
            "This password is among the first that anybody would try.",
            code="password_common",
            field="password",
        )


@cache
def common_passwords() -> frozenset[str]:
    """Read the list of passwords that are tried first."""
    text = files("mailtape.services").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def hash_password(password: str) -> str:
    """Hash a password with a salt of its own; takes about 20 ms."""
    return _hasher.hash(password)


def matches(password_hash: str, password: str) -> bool:
    """Tell whether this is the password; takes about 20 ms."""
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


@cache
def _nobodys_hash() -> str:
    """A hash to try in vain where there is no account, so that both answers take as long."""
    return hash_password("nobody has this password")


class Passwords:
    """Hashes on a few threads of its own, one sign-in's turn after the other."""

    def __init__(self, threads: int | None = None) -> None:
        most = threads or max(1, (os.cpu_count() or 1) // 2)
        self._turns = asyncio.Semaphore(most)
        self._waiting = 0
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="passwords")
        _nobodys_hash()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to hash; whatever guards it (limits) is asked within the turn.

        Raises:
            Unavailable: too many wait already.
        """
        if self._waiting >= _MOST_WAITING:
            raise Unavailable("Too many people are signing in at the moment.")
        self._waiting += 1
        try:
            async with self._turns:
                yield
        finally:
            self._waiting -= 1

    async def hash(self, password: str) -> str:
        """Hash a new password, within a turn."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, hash_password, password)

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Check a password, within a turn; without a hash it takes as long and is false."""
        loop = asyncio.get_running_loop()
        known = password_hash if password_hash is not None else _nobodys_hash()
        matched = await loop.run_in_executor(self._threads, matches, known, password)
        return matched and password_hash is not None

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()
