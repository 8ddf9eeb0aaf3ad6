"""A backup of a whole data folder, and its way back.

A backup is a folder like a data folder, without lock and logs, so that every command can be run on
it. It appears under its name only when it is whole.
"""

import os
import shutil
from datetime import datetime
from pathlib import Path

from mailtape.data_folder import DataFolder, sync_folder
from mailtape.domain.errors import Conflict, Invalid
from mailtape.stores.sqlite_backup import copy_together, is_sound

_NO_PART_OF_A_BACKUP = ("lock",)
_DATABASE_SUFFIXES = (".sqlite3", ".sqlite3-wal", ".sqlite3-shm", ".sqlite3-journal")


def back_up(folder: DataFolder, target: Path) -> None:
    """Copy a data folder as it is at one moment; a running server goes on meanwhile.

    Raises:
        Conflict: there is something of that name.
        StoreFull: there is no room.
        Unavailable: the files are too busy.
    """
    if target.exists():
        raise Conflict(f"{target} exists already.", code="backup_exists")
    draft = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    copy = DataFolder(draft)
    copy_together(folder.databases, copy.databases)
    for file in _small_files(folder.path):
        _copy_synced(file, draft / file.name)
    sync_folder(draft)
    draft.rename(target)
    sync_folder(target.parent)


def restore(source: Path, folder: DataFolder, *, replace: bool, now: datetime) -> Path | None:
    """Put a backup where a server will find it; whoever calls owns the folder.

    What was there is set aside within the folder, never deleted; returns where. Interrupted, it
    can be run again.

    Raises:
        Invalid: it is no backup, or a damaged one.
        Conflict: the folder has data and `replace` was not said.
    """
    backup = DataFolder(source)
    for path in backup.databases:
        if not path.is_file() or not is_sound(path, at_rest=True):
            raise Invalid(f"{path} is no whole SQLite file of a backup.", code="backup_damaged")
    present = [*_databases(folder.path), *_small_files(folder.path)]
    if present and not replace:
        raise Conflict(f"{folder.path} has data in it; --force sets it aside.", code="not_empty")
    aside = _set_aside(present, folder.path / f"before-restore-{now:%Y%m%dT%H%M%SZ}")
    # The rows come last: without them the folder is not taken for a whole one.
    for path in (*_small_files(source), backup.queue, backup.bodies, backup.rows):
        draft = folder.path / f".{path.name}.unfinished"
        _copy_synced(path, draft)
        draft.rename(folder.path / path.name)
    sync_folder(folder.path)
    return aside


def _set_aside(files: list[Path], place: Path) -> Path | None:
    if not files:
        return None
    place.mkdir(mode=0o700)
    for file in files:
        file.rename(place / file.name)
    sync_folder(place)
    return place


def _databases(path: Path) -> list[Path]:
    return [file for file in path.iterdir() if file.name.endswith(_DATABASE_SUFFIXES)]


def _small_files(path: Path) -> list[Path]:
    """Secrets, tokens and certificates: whatever is no database and no draft of anything."""
    return [
        file
        for file in path.iterdir()
        if file.is_file()
        and not file.name.startswith(".")
        and file.name not in _NO_PART_OF_A_BACKUP
        and not file.name.endswith(_DATABASE_SUFFIXES)
    ]


def _copy_synced(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(opened, "wb") as copy, source.open("rb") as original:
        shutil.copyfileobj(original, copy)
        copy.flush()
        os.fsync(copy.fileno())
