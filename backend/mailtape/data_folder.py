"""The folder of everything that is kept: what lies where, who may write, and how a secret is put.

One process owns the folder at a time: `serve` holds its lock for as long as it lives, and so does
every command that would harm a running server. What lies in the folder is for its owner alone.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class FolderInUse(Exception):
    """Another process owns the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"The data folder {folder} is in use by a running server.")
        self.folder = folder


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A data folder and the names of what is in it."""

    path: Path

    @property
    def rows(self) -> Path:
        """Accounts, messages, events, usage and search: SQLite."""
        return self.path / "mailtape.sqlite3"

    @property
    def bodies(self) -> Path:
        """Raw mail, what was understood of it, and attachments: SQLite."""
        return self.path / "bodies.sqlite3"

    @property
    def queue(self) -> Path:
        """Accepted mail that waits to be stored, or for a person: SQLite."""
        return self.path / "queue.sqlite3"

    @property
    def claims(self) -> Path:
        """Large mail that waits in a broker's queue by its name alone: SQLite."""
        return self.path / "claims.sqlite3"

    @property
    def secrets(self) -> Path:
        """The secrets that were made up because none were given: JSON."""
        return self.path / "secrets.json"

    @property
    def first_start(self) -> Path:
        """The administrator and the token that were made up: JSON."""
        return self.path / "first-start.json"

    @property
    def token(self) -> Path:
        """That token alone."""
        return self.path / "token"

    @property
    def databases(self) -> tuple[Path, Path, Path]:
        """The three files of SQLite."""
        return (self.rows, self.bodies, self.queue)

    def make(self) -> None:
        """Make the folder, readable by its owner alone; one that is there stays as it is.

        Raises:
            OSError: it cannot be made or written.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Own the folder for as long as the context lasts.

        The kernel gives the lock back when the process ends, however it ends.

        Raises:
            FolderInUse: another process owns it.
            OSError: the folder cannot be written.
        """
        self.make()
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUse(self.path) from None
            yield
        finally:
            os.close(lock)


def put_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600: as a whole, synced, and in place of what was there.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make names that were added to a folder or taken out of it durable."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
