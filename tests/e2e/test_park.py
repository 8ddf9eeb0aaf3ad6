"""Mail that is parked is looked at, offered again and dropped by an operator."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from embedded import open_stores
from fakes import an_envelope
from forked import Forked
from mailtape.data_folder import DataFolder
from mailtape.ports.queue import QueueDepth
from served import MAILTAPE, environment, serving

pytestmark = pytest.mark.e2e

RAW = b"Subject: parked\r\n\r\n\x00 bytes \xff\r\n"


async def _park(folder: DataFolder) -> None:
    stores = open_stores(folder, queue_max_bytes=2**20)
    await stores.queue.put(an_envelope(RAW, mail_from="shop\x1b[2J@example.org"), RAW)
    (mail,) = await stores.queue.lease(1, 2**20)
    await stores.queue.park(mail.receipt, "tried 5 times: no room")
    stores.close()


async def _depth(folder: DataFolder) -> QueueDepth:
    stores = open_stores(folder, queue_max_bytes=2**20)
    try:
        return await stores.queue.depth()
    finally:
        stores.close()


@pytest.fixture
def folder(tmp_path: Path, mailtape: Forked) -> DataFolder:
    assert mailtape.run("migrate", cwd=tmp_path).returncode == 0
    folder = DataFolder(tmp_path / "var")
    asyncio.run(_park(folder))
    return folder


def test_lists_and_shows_without_steering_the_terminal(
    folder: DataFolder, tmp_path: Path, mailtape: Forked
) -> None:
    listed = mailtape.run("park", "list", cwd=tmp_path)
    shown = mailtape.run("park", "show", "1", cwd=tmp_path)

    assert listed.returncode == shown.returncode == 0
    for said in (listed.stdout, shown.stdout):
        assert "tried 5 times: no room" in said
        assert "<qa@mail.example.com>" in said
        assert "\x1b" not in said


def test_writes_the_message_byte_for_byte(folder: DataFolder, tmp_path: Path) -> None:
    raw = subprocess.run(
        [MAILTAPE, "park", "show", "1", "--raw"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=True,
    )

    assert raw.stdout == RAW


def test_lists_beside_a_running_server(
    folder: DataFolder, tmp_path: Path, mailtape: Forked
) -> None:
    with serving(folder.path, tmp_path / "log"):
        listed = mailtape.run("park", "list", cwd=tmp_path)

    assert listed.returncode == 0
    assert listed.stdout.startswith("1  ")


def test_retry_offers_it_again(folder: DataFolder, tmp_path: Path, mailtape: Forked) -> None:
    assert mailtape.run("park", "retry", "1", cwd=tmp_path).returncode == 0
    assert asyncio.run(_depth(folder)) == QueueDepth(waiting=1, leased=0, parked=0)
    assert mailtape.run("park", "retry", "1", cwd=tmp_path).returncode == 1


def test_retry_offers_all_of_it_again_and_counts(
    folder: DataFolder, tmp_path: Path, mailtape: Forked
) -> None:
    for _ in range(2):
        asyncio.run(_park(folder))

    retried = mailtape.run("park", "retry", "--all", cwd=tmp_path)

    assert retried.returncode == 0, retried.stderr
    assert retried.stderr.splitlines() == ["3 of 3"]
    assert retried.stdout == "3 of 3 parked mails wait in the queue again.\n"
    assert asyncio.run(_depth(folder)) == QueueDepth(waiting=3, leased=0, parked=0)
    again = mailtape.run("park", "retry", "--all", cwd=tmp_path)
    assert (again.returncode, again.stdout[:6]) == (0, "0 of 0")


def test_drop_forgets_it(folder: DataFolder, tmp_path: Path, mailtape: Forked) -> None:
    assert mailtape.run("park", "drop", "1", cwd=tmp_path).returncode == 0
    assert asyncio.run(_depth(folder)) == QueueDepth(waiting=0, leased=0, parked=0)
    assert mailtape.run("park", "drop", "1", cwd=tmp_path).returncode == 1
    assert mailtape.run("park", "show", "1", cwd=tmp_path).returncode == 1
