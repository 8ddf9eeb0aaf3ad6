"""Each part is broken, really, and the sentence is read that says which setting to change."""

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import aio_pika
import pytest
import redis

import services
from fakes import an_envelope
from forked import Forked
from mailtape.services import diagnosis
from mailtape.stores.mongo_claims import MongoClaims
from mailtape.stores.mongo_connection import open_client
from mailtape.stores.rabbit_queue import RabbitQueue
from served import COMMAND_SECONDS, MAILTAPE, environment, serving
from services import Instance

RAW = b"Subject: waits\r\n\r\nfor a worker\r\n"
SERVERS = {
    "mysql": ("rows (MySQL)", "DB_HOST and DB_PORT"),
    "mongodb": ("bodies (MongoDB)", "MONGODB_URL"),
    "rabbitmq": ("queue (RabbitMQ)", "RABBITMQ_URL"),
    "redis": ("counters (Redis)", "REDIS_URL"),
}
SECONDS = 35
"""Four parts at a time, ten seconds for the one that does not answer, and a loaded machine."""

Change = Callable[[dict[str, str]], dict[str, str]]


def doctor(
    mailtape: Forked, settings: Mapping[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    answer = mailtape.run("doctor", cwd=cwd, settings=dict(settings))
    assert answer.stderr == ""
    for name in ("DB_PASSWORD", "JWT_SECRET", "API_TOKEN_SALT"):
        if len(settings.get(name, "")) > len("mailtape"):  # which stands in every line otherwise
            assert settings[name] not in answer.stdout
    return answer


def failures(answer: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in answer.stdout.splitlines() if line.startswith("FAILED")]


def the_failure(answer: subprocess.CompletedProcess[str]) -> str:
    (line,) = failures(answer)
    assert answer.returncode == 1
    return line


def failure_of(answer: subprocess.CompletedProcess[str], part: str) -> str:
    (line,) = [line for line in failures(answer) if line.startswith(f"FAILED  {part}: ")]
    return line


# The embedded default


@pytest.mark.e2e
def test_an_embedded_installation_is_well_also_beside_its_server(
    tmp_path: Path, mailtape: Forked
) -> None:
    with serving(tmp_path / "var", tmp_path / "log") as served:
        beside = doctor(mailtape, {}, tmp_path)
        assert served.stop() == 0
    files = {path.name for path in (tmp_path / "var").iterdir()}

    alone = doctor(mailtape, {}, tmp_path)

    for answer in (beside, alone):
        assert answer.returncode == 0, answer.stdout
        assert [line for line in answer.stdout.splitlines() if not line.startswith("ok ")] == []
        for part in ("settings", "machine", "rows (SQLite)", "bodies (SQLite)", "queue (SQLite)"):
            assert f"ok      {part}: " in answer.stdout
    assert {path.name for path in (tmp_path / "var").iterdir()} == files
    assert mailtape.run("verifydata", cwd=tmp_path).returncode == 0


@pytest.mark.e2e
def test_an_empty_folder_is_told_to_migrate_and_stays_empty(
    tmp_path: Path, mailtape: Forked
) -> None:
    answer = doctor(mailtape, {}, tmp_path)

    assert answer.returncode == 1
    assert len(failures(answer)) == 3
    assert all("mailtape migrate" in line for line in failures(answer))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_settings_that_cannot_be_read_end_as_everywhere(tmp_path: Path, mailtape: Forked) -> None:
    answer = mailtape.run("doctor", cwd=tmp_path, settings={"DB_PORT": "many"})

    assert answer.returncode == 78
    assert "DB_PORT" in answer.stderr


@pytest.mark.e2e
def test_a_damaged_file_and_too_few_open_files_are_named(tmp_path: Path, mailtape: Forked) -> None:
    assert mailtape.run("migrate", cwd=tmp_path).returncode == 0
    bodies = tmp_path / "var/bodies.sqlite3"
    bodies.write_bytes(b"no database at all" * 1000)

    answer = subprocess.run(
        ["/bin/sh", "-c", f"ulimit -n 256; exec {MAILTAPE} doctor"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )

    assert answer.returncode == 1
    files, damaged = failures(answer)
    assert "SMTP_MAX_CONNECTIONS" in files
    assert damaged.startswith("FAILED  bodies (SQLite): ")
    assert "DATA_DIR" in damaged


# A fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, mailtape: Forked) -> Iterator[dict[str, str]]:
    """What leads to an installation on all four servers, ready for use."""
    with ExitStack() as stack:
        given: dict[str, str] = {}
        for own in (services.own_database, services.own_documents, services.own_vhost):
            mine = stack.enter_context(own())
            given |= {name: mine[name] for name in mine if name not in given or own_to(own, name)}
        given |= {"JWT_SECRET": "j" * 40, "API_TOKEN_SALT": "s" * 40, "RABBITMQ_QUEUE": "doctor"}
        cwd = tmp_path_factory.mktemp("fleet")
        assert mailtape.run("migrate", cwd=cwd, settings=given).returncode == 0
        yield given


DONE = (
    "rows (MySQL): writes and reads a row.",
    *(
        f"bodies (MongoDB): gives {octets:,} bytes back. They came back as they were kept."
        for octets in (diagnosis.SMALL_OCTETS, diagnosis.LARGE_OCTETS)
    ),
    "queue (RabbitMQ): passes a message on. One message was published, confirmed, consumed and",
    "counters (Redis): runs the scripts of counters and limits. Room was held, used, given back",
)
"""What each part has really done, and not only answered."""


def own_to(own: Callable[..., object], name: str) -> bool:
    prefix = {"own_database": "DB_", "own_documents": "MONGODB_", "own_vhost": "RABBITMQ_"}
    return name.startswith(prefix[own.__name__])


@pytest.mark.services
@pytest.mark.e2e
def test_a_fleet_is_well_and_its_mail_is_left_alone(
    fleet: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    before = asyncio.run(put_a_mail(fleet))

    answer = doctor(mailtape, fleet, tmp_path)

    assert answer.returncode == 0, answer.stdout
    for part, _ in SERVERS.values():
        assert f"ok      {part}: " in answer.stdout
    for said in DONE:
        assert said in answer.stdout
    assert "1 mails wait, 0 are parked, 0 workers listen." in answer.stdout
    assert asyncio.run(take_the_mail(fleet)) == before
    assert asyncio.run(queues_named_doctor(fleet)) == []


@pytest.mark.services
@pytest.mark.e2e
def test_large_mail_that_has_reached_its_bound_is_told(
    fleet: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    async def claim() -> None:
        async with open_client(fleet["MONGODB_URL"]) as client:
            claims = MongoClaims(client[own["MONGODB_DATABASE"]])
            await claims.keep(an_envelope(RAW).ingest_id, bytes(2**20))

    with services.own_documents() as own:
        asyncio.run(claim())
        settings = fleet | {"MONGODB_DATABASE": own["MONGODB_DATABASE"]}
        reached = doctor(mailtape, settings | {"QUEUE_MAX_BYTES": "1MiB"}, tmp_path)
        room = doctor(mailtape, settings | {"QUEUE_MAX_BYTES": "2MiB"}, tmp_path)

    assert "QUEUE_MAX_BYTES" in failure_of(reached, "bodies (MongoDB)")
    assert "ok      bodies (MongoDB): would take a large mail now. 1,048,576" in room.stdout


async def put_a_mail(fleet: dict[str, str]) -> bytes:
    async with open_client(fleet["MONGODB_URL"]) as client:
        queue = queue_of(fleet, MongoClaims(client[fleet["MONGODB_DATABASE"]]))
        await queue.start()
        envelope = an_envelope(RAW)
        await queue.put(envelope, RAW)
        await queue.close()
        return bytes(envelope.ingest_id)


async def take_the_mail(fleet: dict[str, str]) -> bytes:
    async with open_client(fleet["MONGODB_URL"]) as client:
        queue = queue_of(fleet, MongoClaims(client[fleet["MONGODB_DATABASE"]]))
        await queue.start()
        (leased,) = await queue.lease(10, 2**20)
        await queue.acknowledge([leased.receipt])
        await queue.close()
        assert leased.raw == RAW
        return bytes(leased.envelope.ingest_id)


def queue_of(fleet: dict[str, str], claims: MongoClaims) -> RabbitQueue:
    return RabbitQueue(fleet["RABBITMQ_URL"], fleet["RABBITMQ_QUEUE"], claims, max_bytes=4 * 2**30)


async def queues_named_doctor(fleet: dict[str, str]) -> list[str]:
    vhost = fleet["RABBITMQ_URL"].rpartition("/")[2]
    listed = services.rabbitmqctl("list_queues", "--vhost", vhost, "name")
    return [name for name in listed.split() if ".doctor-" in name]


def _login(name: str, was: str, becomes: str) -> Change:
    return lambda given: {name: given[name].replace(was, becomes)}


ELSEWHERE: Mapping[str, tuple[tuple[Change, str, str], ...]] = {
    "passwords": (
        (lambda _: {"DB_PASSWORD": "hunter2-not-it"}, "rows (MySQL)", "DB_PASSWORD"),
        (_login("RABBITMQ_URL", ":guest@", ":hunter2-not-it@"), "queue (RabbitMQ)", "password"),
        (_login("REDIS_URL", "//", "//nobody:hunter2-not-it@"), "counters (Redis)", "password"),
        (_login("MONGODB_URL", "//", "//u:hunter2-not-it@"), "bodies (MongoDB)", "MONGODB_URL"),
    ),
    "names": (
        (lambda _: {"DB_NAME": "no_such_name"}, "rows (MySQL)", "DB_NAME"),
        (_login("RABBITMQ_URL", "/test-", "/gone-"), "queue (RabbitMQ)", "virtual host"),
        (_login("REDIS_URL", "/0", "/999"), "counters (Redis)", "REDIS_URL"),
    ),
    "places": (
        (lambda _: {"DB_PORT": "9"}, "rows (MySQL)", "DB_HOST and DB_PORT"),
        (lambda _: {"RABBITMQ_QUEUE": "another"}, "queue (RabbitMQ)", "RABBITMQ_QUEUE"),
        (lambda _: {"MONGODB_URL": "mongodb://127.0.0.1:9/"}, "bodies (MongoDB)", "MONGODB_URL"),
    ),
    "size": ((lambda _: {"QUEUE_MAX_BYTES": "1GiB"}, "queue (RabbitMQ)", "QUEUE_MAX_BYTES"),),
}
"""What is set wrongly, the part that fails, and what it must say; the parts are asked at once."""


@pytest.mark.services
@pytest.mark.e2e
@pytest.mark.parametrize("what", ELSEWHERE)
def test_what_leads_elsewhere_is_named(
    fleet: dict[str, str], tmp_path: Path, what: str, mailtape: Forked
) -> None:
    settings = dict(fleet)
    for change, _, _ in ELSEWHERE[what]:
        settings |= change(settings)

    answer = doctor(mailtape, settings, tmp_path)

    assert answer.returncode == 1
    assert len(failures(answer)) == len(ELSEWHERE[what])
    for _, part, said in ELSEWHERE[what]:
        assert said in failure_of(answer, part)
    assert "hunter2" not in answer.stdout


@pytest.mark.services
@pytest.mark.e2e
def test_an_older_schema_is_told_to_migrate(
    fleet: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    with services.own_database() as older:
        settings = fleet | {"DB_NAME": older["DB_NAME"]}
        assert mailtape.run("migrate", cwd=tmp_path, settings=settings).returncode == 0
        services._execute(settings, "UPDATE alembic_version SET version_num = '0001'")

        failure = the_failure(doctor(mailtape, settings, tmp_path))

    assert "older release" in failure
    assert "mailtape migrate" in failure


# Servers of the tests' own, which may be harmed


@pytest.fixture(scope="module")
def own() -> Iterator[Instance]:
    with services.running(*SERVERS) as instance:
        yield instance


@pytest.fixture(scope="module")
def healthy(
    own: Instance, tmp_path_factory: pytest.TempPathFactory, mailtape: Forked
) -> dict[str, str]:
    """What leads to servers that can be harmed; every test leaves them well."""
    given = own.variables() | {"JWT_SECRET": "j" * 40, "API_TOKEN_SALT": "s" * 40}
    cwd = tmp_path_factory.mktemp("healthy")
    assert mailtape.run("migrate", cwd=cwd, settings=given).returncode == 0
    return given


def rounds(*, soak: bool) -> list[tuple[str, ...]]:
    """Break all at once, which shows every sentence; in a soak also each while others are well."""
    return [tuple(SERVERS), *((name,) for name in SERVERS if soak)]


@pytest.mark.services
@pytest.mark.e2e
def test_a_server_that_hangs_is_named_in_time(
    own: Instance, healthy: dict[str, str], tmp_path: Path, mailtape: Forked, *, soak: bool
) -> None:
    for names in rounds(soak=soak):
        for name in names:
            own.pause(name)
        begin = time.monotonic()
        try:
            answer = doctor(mailtape, healthy, tmp_path)
        finally:
            for name in names:
                own.resume(name)

        assert time.monotonic() - begin < SECONDS
        assert len(failures(answer)) == len(names)
        for name in names:
            part, setting = SERVERS[name]
            assert setting in failure_of(answer, part)


@pytest.mark.services
@pytest.mark.e2e
def test_a_server_that_is_stopped_is_named(
    own: Instance, healthy: dict[str, str], tmp_path: Path, mailtape: Forked, *, soak: bool
) -> None:
    for names in rounds(soak=soak):
        for name in names:
            own.stop(name)
        try:
            answer = doctor(mailtape, healthy, tmp_path)
        finally:
            for name in names:
                own.start(name)

        assert len(failures(answer)) == len(names)
        for name in names:
            part, setting = SERVERS[name]
            failure = failure_of(answer, part)
            assert "Nothing answers" in failure
            assert setting in failure


@pytest.mark.services
@pytest.mark.e2e
@pytest.mark.parametrize(
    ("statement", "back", "said"),
    [
        (
            "SET GLOBAL innodb_flush_log_at_trx_commit = 2",
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1",
            "innodb_flush_log_at_trx_commit is 2",
        ),
        ("SET GLOBAL max_connections = 30", "SET GLOBAL max_connections = 300", "DB_CONNECTIONS"),
    ],
)
def test_a_mysql_that_is_set_up_otherwise_is_named(
    healthy: dict[str, str], tmp_path: Path, statement: str, back: str, said: str, mailtape: Forked
) -> None:
    services._execute(healthy, statement)
    try:
        failure = the_failure(doctor(mailtape, healthy, tmp_path))
    finally:
        services._execute(healthy, back)

    assert failure.startswith("FAILED  rows (MySQL): ")
    assert said in failure


@pytest.mark.services
@pytest.mark.e2e
def test_a_mysql_that_only_reads_is_named(
    healthy: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    with services.connect_mysql(healthy) as root, root.cursor() as cursor:
        cursor.execute("CREATE USER reader@127.0.0.1 IDENTIFIED BY 'hunter2-reader'")
        cursor.execute(f"GRANT SELECT ON {healthy['DB_NAME']}.* TO reader@127.0.0.1")
        try:
            reader = healthy | {"DB_USER": "reader", "DB_PASSWORD": "hunter2-reader"}
            failure = the_failure(doctor(mailtape, reader, tmp_path))
        finally:
            cursor.execute("DROP USER reader@127.0.0.1")

    assert "DB_USER may not" in failure


@pytest.mark.services
@pytest.mark.e2e
def test_a_redis_that_drops_counters_is_named(
    healthy: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    with redis.Redis.from_url(healthy["REDIS_URL"]) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            failure = the_failure(doctor(mailtape, healthy, tmp_path))
        finally:
            client.config_set("maxmemory-policy", "noeviction")
        assert list(client.scan_iter(match="mailtape:doctor:*")) == []

    assert "noeviction" in failure


@pytest.mark.services
@pytest.mark.e2e
def test_a_redis_that_runs_no_scripts_is_named(
    healthy: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    with redis.Redis.from_url(healthy["REDIS_URL"]) as client:
        may = ("on", ">hunter2-scripts", "~*", "&*", "+@all", "-evalsha")
        client.execute_command("ACL", "SETUSER", "scriptless", *may)
        url = healthy["REDIS_URL"].replace("//", "//scriptless:hunter2-scripts@")
        try:
            failure = the_failure(doctor(mailtape, healthy | {"REDIS_URL": url}, tmp_path))
        finally:
            client.execute_command("ACL", "DELUSER", "scriptless")

    assert failure.startswith("FAILED  counters (Redis): runs the scripts")
    assert "REDIS_URL" in failure
    assert "hunter2" not in failure


@pytest.mark.services
@pytest.mark.e2e
def test_a_rabbitmq_whose_user_may_not_publish_is_named(
    own: Instance, healthy: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    """It may do all else, and write to the dead-letter exchange, which declaring takes."""
    own.rabbitmqctl("add_user", "mute", "hunter2-mute")
    try:
        own.rabbitmqctl("set_permissions", "mute", ".*", r"^mailtape.*", ".*")
        scheme, _, where = healthy["RABBITMQ_URL"].rpartition("@")
        url = f"{scheme.partition('//')[0]}//mute:hunter2-mute@{where}"
        failure = the_failure(doctor(mailtape, healthy | {"RABBITMQ_URL": url}, tmp_path))
    finally:
        own.rabbitmqctl("delete_user", "mute")

    assert failure.startswith("FAILED  queue (RabbitMQ): passes a message on")
    assert "RABBITMQ_URL" in failure
    assert "everything in its virtual host" in failure
    assert "hunter2" not in failure


@pytest.mark.services
@pytest.mark.e2e
def test_a_classic_queue_in_the_place_of_ours_is_named(
    healthy: dict[str, str], tmp_path: Path, mailtape: Forked
) -> None:
    async def declare() -> None:
        async with await aio_pika.connect(healthy["RABBITMQ_URL"]) as connection:
            channel = await connection.channel()
            for side in ("", ".retry", ".parked"):
                await channel.declare_queue(f"classic{side}", durable=True)

    asyncio.run(declare())
    failure = the_failure(doctor(mailtape, healthy | {"RABBITMQ_QUEUE": "classic"}, tmp_path))

    assert failure.startswith("FAILED  queue (RabbitMQ): ")
    assert "RABBITMQ_QUEUE" in failure
