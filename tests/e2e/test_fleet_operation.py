"""What an operator does to a fleet, with the real command and the real servers."""

import asyncio
import hashlib
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import aio_pika
import pytest
import zstandard

import mysql
import processes
import services
from fakes import a_delivery, an_envelope, an_organisation_id
from forked import Forked
from mailtape.domain.ids import IngestId, new_id
from mailtape.ports.bodies import Blob, Body, BodyKey
from mailtape.rows import organisations
from mailtape.stores.mongo_bodies import MongoBodies
from mailtape.stores.mongo_claims import MongoClaims
from mailtape.stores.mongo_connection import open_client
from mailtape.stores.rabbit_queue import RabbitQueue
from rules.test_alerts import ASKED
from served import MAILTAPE, START_SECONDS, STOP_SECONDS, environment

pytestmark = [pytest.mark.services, pytest.mark.e2e]

T = TypeVar("T")

RAW = b"Subject: parked\r\n\r\n\x00 bytes \xff\r\n"
BLOB = Blob(zstandard.compress(RAW), len(RAW), hashlib.sha256(RAW).digest())
QUEUE_MAX_BYTES = 2**30
SECONDS = 30


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, mailtape: Forked) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        given = services.variables("redis")
        given |= stack.enter_context(services.own_database())
        given["MONGODB_DATABASE"] = stack.enter_context(services.own_documents())[
            "MONGODB_DATABASE"
        ]
        given["RABBITMQ_URL"] = stack.enter_context(services.own_vhost())["RABBITMQ_URL"]
        given |= {"JWT_SECRET": "j" * 40, "API_TOKEN_SALT": "s" * 40}
        given["QUEUE_MAX_BYTES"] = "1GiB"
        migrated = mailtape.run("migrate", cwd=tmp_path_factory.mktemp("fleet"), settings=given)
        assert migrated.returncode == 0, migrated.stderr
        assert "rabbitmq" not in migrated.stdout
        yield given


def on_queue(fleet: dict[str, str], act: Callable[[RabbitQueue], Awaitable[T]]) -> T:
    async def connected() -> T:
        async with open_client(fleet["MONGODB_URL"]) as client:
            queue = RabbitQueue(
                fleet["RABBITMQ_URL"],
                fleet["RABBITMQ_QUEUE"],
                MongoClaims(client[fleet["MONGODB_DATABASE"]]),
                max_bytes=QUEUE_MAX_BYTES,
            )
            await queue.start()
            try:
                return await act(queue)
            finally:
                await queue.close()

    return asyncio.run(connected())


def park(fleet: dict[str, str]) -> int:
    """Park a mail to organisation `local`; gives its number."""

    async def local() -> bytes:
        async with mysql.opened(mysql.url_of(fleet)) as rows:
            return await rows.read(organisations.find_local)

    async def act(queue: RabbitQueue) -> int:
        envelope = an_envelope(
            RAW,
            mail_from="shop\x1b[2J@example.org",
            deliveries=(a_delivery("qa@mail.example.com", organisation_id),),
        )
        await queue.put(envelope, RAW)
        (mail,) = await queue.lease(1, 2**20)
        await queue.park(mail.receipt, "tried 5 times: no room")
        (parked,) = await queue.parked(10)
        return parked.receipt

    organisation_id = asyncio.run(local())
    return on_queue(fleet, act)


@contextmanager
def worker(fleet: dict[str, str], cwd: Path) -> Iterator[None]:
    with (cwd / "log").open("w") as log:
        process = subprocess.Popen(
            [MAILTAPE, "worker", "--workers", "1"],
            cwd=cwd,
            env=environment(**fleet),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    gave_up = threading.Timer(START_SECONDS, process.kill)
    gave_up.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready"), (cwd / "log").read_text()
        gave_up.cancel()
        yield
    finally:
        gave_up.cancel()
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0
        assert process.stdout is not None
        process.stdout.close()


def subjects(fleet: dict[str, str]) -> list[str]:
    with services.connect_mysql(fleet) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT subject FROM messages")
        return [subject for (subject,) in cursor.fetchall()]


def test_parked_mail_is_listed_shown_and_offered_again_while_a_worker_runs(
    fleet: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    number = str(park(fleet))
    before = len(subjects(fleet))

    with worker(fleet, tmp_path):
        listed = mailtape.run("park", "list", cwd=tmp_path, settings=fleet)
        shown = mailtape.run("park", "show", number, cwd=tmp_path, settings=fleet)
        raw = subprocess.run(
            [MAILTAPE, "park", "show", number, "--raw"],
            cwd=tmp_path,
            env=environment(**fleet),
            capture_output=True,
            check=True,
        )
        retried = mailtape.run("park", "retry", "--all", cwd=tmp_path, settings=fleet)
        deadline = time.monotonic() + SECONDS
        while len(subjects(fleet)) == before and time.monotonic() < deadline:
            time.sleep(0.1)

    assert listed.stdout.startswith(f"{number}  ")
    for said in (listed.stdout, shown.stdout):
        assert "tried 5 times: no room" in said
        assert "\x1b" not in said
    assert raw.stdout == RAW
    assert retried.returncode == 0, retried.stderr
    assert retried.stdout == "1 of 1 parked mails wait in the queue again.\n"
    assert subjects(fleet) == ["parked"] * (before + 1)
    assert mailtape.run("park", "retry", number, cwd=tmp_path, settings=fleet).returncode == 1
    checked = mailtape.run("verifydata", cwd=tmp_path, settings=fleet)
    assert checked.returncode == 0, checked.stdout
    assert ", 0 queued mails of 1 organisations: 0 findings" in checked.stdout


def test_a_worker_shows_what_alerts_ask_for(
    fleet: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    number = str(park(fleet))
    (port,) = processes.free_ports(1)
    address = f"127.0.0.1:{port}"
    try:
        with worker(fleet | {"METRICS_LISTEN": address}, tmp_path):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
                shown = answer.read().decode()
            with urllib.request.urlopen(f"http://{address}/health", timeout=30) as answer:
                assert answer.status == 200
    finally:
        assert mailtape.run("park", "drop", number, cwd=tmp_path, settings=fleet).returncode == 0

    lines = shown.splitlines()
    assert 'mailtape_queue_depth{state="parked"} 1.0' in lines
    assert 'mailtape_queue_depth{state="waiting"} 0.0' in lines
    for part in ("rows", "bodies", "queue"):
        assert f'mailtape_part_works{{part="{part}"}} 1.0' in lines
    for name in sorted({name for name, _ in ASKED}):
        declared = re.sub("_(total|bucket)$", "", name)
        assert any(line.startswith(f"# TYPE {declared}") for line in lines), name


@pytest.mark.parametrize("role", ["api", "ingest", "policy", "worker"])
def test_no_process_starts_with_a_queue_that_could_lose_mail(
    fleet: dict[str, str], tmp_path: Path, mailtape: Forked, role: str
) -> None:
    lossy = f"lossy-{role}"

    async def declare() -> None:
        async with await aio_pika.connect(fleet["RABBITMQ_URL"]) as connection:
            await (await connection.channel()).declare_queue(lossy)

    asyncio.run(declare())
    doors = {
        "api": ("--http", "127.0.0.1:0"),
        "ingest": ("--smtp", "127.0.0.1:0"),
        "policy": ("--listen", "127.0.0.1:0"),
    }

    ended = mailtape.run(
        role, *doors.get(role, ()), cwd=tmp_path, settings=fleet | {"RABBITMQ_QUEUE": lossy}
    )

    assert ended.returncode == 1, ended.stdout
    assert f"The queue '{lossy}' at RABBITMQ_URL is declared otherwise" in ended.stderr
    assert "ready" not in ended.stdout


def test_a_worker_sweeps_a_body_that_no_row_names(fleet: dict[str, str], tmp_path: Path) -> None:
    """As one leaves that is killed between a body and its rows."""

    async def on_bodies(act: Callable[[MongoBodies], Awaitable[T]]) -> T:
        async with open_client(fleet["MONGODB_URL"]) as client:
            return await act(MongoBodies(client[fleet["MONGODB_DATABASE"]]))

    def kept() -> set[BodyKey]:
        return set(asyncio.run(on_bodies(lambda bodies: bodies.keys(None, 1000))))

    hours_ago = [int((time.time() - hours * 3600) * 1000) for hours in (25, 23)]
    old, young = (BodyKey(IngestId(new_id(ms)), an_organisation_id()) for ms in hours_ago)
    left = [Body(key, BLOB, BLOB, (("1", BLOB),)) for key in (old, young)]
    asyncio.run(on_bodies(lambda bodies: bodies.keep(left)))
    assert kept() >= {old, young}
    try:
        with services.connect_mysql(fleet) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM rounds")  # another worker had its turn within the hour
        with worker(fleet, tmp_path):
            deadline = time.monotonic() + SECONDS
            while old in kept() and time.monotonic() < deadline:
                time.sleep(0.1)
        assert kept() & {old, young} == {young}
    finally:
        asyncio.run(on_bodies(lambda bodies: bodies.delete([old, young])))


def test_parked_mail_is_dropped(fleet: dict[str, str], tmp_path: Path, mailtape: Forked) -> None:
    number = str(park(fleet))

    dropped = mailtape.run("park", "drop", number, cwd=tmp_path, settings=fleet)

    assert dropped.returncode == 0, dropped.stderr
    assert mailtape.run("park", "drop", number, cwd=tmp_path, settings=fleet).returncode == 1
    assert mailtape.run("park", "list", cwd=tmp_path, settings=fleet).stdout == ""


def test_verifydata_ends_with_1_and_names_what_is_wrong_in_the_rows(
    fleet: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    with services.connect_mysql(fleet) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE organisations SET storage_bytes = storage_bytes + 1")
        try:
            damaged = mailtape.run("verifydata", cwd=tmp_path, settings=fleet)
        finally:
            cursor.execute("UPDATE organisations SET storage_bytes = storage_bytes - 1")

    assert damaged.returncode == 1
    assert damaged.stdout.startswith("storage_differs: organisation local ")


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_folder_that_is_not_everything_is_neither_copied_nor_put_back(
    fleet: dict[str, str], tmp_path: Path, command: str, mailtape: Forked
) -> None:
    refused = mailtape.run(command, tmp_path / "copy", cwd=tmp_path, settings=fleet)

    assert refused.returncode == 78
    assert "DB_HOST and MONGODB_URL and RABBITMQ_URL name servers" in refused.stderr
    assert list(tmp_path.iterdir()) == []
