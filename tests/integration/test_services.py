"""What `deploy/services` promises: real servers, of one's own too, that keep data when killed."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import aio_pika
import pymongo
import pymysql
import pytest
import redis

import processes
import services
from services import Instance

pytestmark = pytest.mark.services

QUEUE = "kept"
QUEUE_IS_WRITTEN_SECONDS = 1.0
"""RabbitMQ notes a new quorum queue half a second after it was declared; see `Instance.kill`."""


@dataclass(frozen=True)
class Use:
    """How to keep one value in a service, by its bare driver, and how to ask for it."""

    keep: Callable[[Mapping[str, str], bytes], Awaitable[None]]
    ask: Callable[[Mapping[str, str]], Awaitable[bytes]]


async def keep_in_mysql(given: Mapping[str, str], value: bytes) -> None:
    with closing(services.connect_mysql(given)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept (value VARBINARY(100)) ENGINE=InnoDB")
        cursor.execute("INSERT INTO kept VALUES (%s)", (value,))


async def ask_mysql(given: Mapping[str, str]) -> bytes:
    with closing(services.connect_mysql(given)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT value FROM kept")
        ((value,),) = cursor.fetchall()
        return bytes(value)


async def keep_in_redis(given: Mapping[str, str], value: bytes) -> None:
    with redis.Redis.from_url(given["REDIS_URL"]) as client:
        client.set("kept", value)


async def ask_redis(given: Mapping[str, str]) -> bytes:
    with redis.Redis.from_url(given["REDIS_URL"]) as client:
        value = client.get("kept")
        assert isinstance(value, bytes)
        return value


async def keep_in_rabbitmq(given: Mapping[str, str], value: bytes) -> None:
    async with await aio_pika.connect(given["RABBITMQ_URL"]) as connection:
        channel = await connection.channel(on_return_raises=True)
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(value, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, QUEUE)
    await asyncio.sleep(QUEUE_IS_WRITTEN_SECONDS)


async def ask_rabbitmq(given: Mapping[str, str]) -> bytes:
    async with await aio_pika.connect(given["RABBITMQ_URL"]) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(QUEUE)
        message = await queue.get(timeout=20)
        assert message is not None
        await message.reject(requeue=True)
        return message.body


async def keep_in_mongodb(given: Mapping[str, str], value: bytes) -> None:
    with pymongo.MongoClient(given["MONGODB_URL"]) as client:
        client[given["MONGODB_DATABASE"]].kept.insert_one({"_id": "kept", "value": value})


async def ask_mongodb(given: Mapping[str, str]) -> bytes:
    with pymongo.MongoClient(given["MONGODB_URL"]) as client:
        found = client[given["MONGODB_DATABASE"]].kept.find_one({"_id": "kept"})
        assert found is not None
        return bytes(found["value"])


USES = {
    "mysql": Use(keep_in_mysql, ask_mysql),
    "redis": Use(keep_in_redis, ask_redis),
    "rabbitmq": Use(keep_in_rabbitmq, ask_rabbitmq),
    "mongodb": Use(keep_in_mongodb, ask_mongodb),
}


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with services.running(*USES) as started:
        yield started


async def test_a_database_of_ones_own_keeps_rows_and_is_gone_afterwards() -> None:
    with services.own_database() as given:
        await keep_in_mysql(given, b"a\0b")

        assert await ask_mysql(given) == b"a\0b"

    with pytest.raises(pymysql.err.OperationalError, match="Unknown database"):
        services.connect_mysql(given)


async def test_documents_of_ones_own_are_gone_afterwards() -> None:
    with services.own_documents() as given:
        await keep_in_mongodb(given, b"a\0b")

        assert await ask_mongodb(given) == b"a\0b"

    with pymongo.MongoClient(given["MONGODB_URL"]) as client:
        assert given["MONGODB_DATABASE"] not in client.list_database_names()


def test_keys_of_ones_own_are_gone_afterwards_and_no_others() -> None:
    client = redis.Redis.from_url(services.variables("redis")["REDIS_URL"])
    with client, services.own_keys() as others:
        client.set(f"{others}kept", 1)
        with services.own_keys() as prefix:
            client.mset({f"{prefix}{number}": number for number in range(3)})

        assert list(client.scan_iter(match=f"{prefix}*")) == []
        assert client.exists(f"{others}kept")


async def test_a_vhost_of_ones_own_is_gone_afterwards() -> None:
    with services.own_vhost() as given:
        await keep_in_rabbitmq(given, b"a\0b")

        assert await ask_rabbitmq(given) == b"a\0b"

    _, _, name = given["RABBITMQ_URL"].rpartition("/")
    assert name not in services.rabbitmqctl("list_vhosts").split()


@pytest.mark.parametrize("name", USES)
async def test_a_killed_service_comes_back_with_its_data(instance: Instance, name: str) -> None:
    use, value = USES[name], os.urandom(16)
    given = instance.variables()
    await use.keep(given, value)

    instance.kill(name)

    assert instance.status(name) == f"{name}: stopped"
    instance.start(name)
    assert await use.ask(given) == value


@pytest.mark.parametrize("name", USES)
def test_a_paused_service_is_seen_and_can_go_on(instance: Instance, name: str) -> None:
    instance.pause(name)
    try:
        assert instance.status(name).endswith("but does not answer")
    finally:
        instance.resume(name)

    instance.start(name)
    assert instance.status(name) == f"{name}: runs in {instance.folder / name}"


@pytest.mark.parametrize("name", USES)
def test_one_that_runs_is_not_started_again(instance: Instance, name: str) -> None:
    before = instance.pid(name)

    instance.start(name)

    assert instance.pid(name) == before


def test_listens_on_no_address_but_one(instance: Instance) -> None:
    for port in instance.ports.values():
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


def test_a_stopped_service_is_not_named_and_can_start_again(instance: Instance) -> None:
    instance.stop("redis")
    stopped = instance.variables()
    instance.start("redis")

    assert "REDIS_URL" not in stopped
    assert stopped.items() < instance.variables().items()


def test_without_a_name_all_come_up(instance: Instance) -> None:
    (port,) = processes.free_ports(1)
    given = instance._environment | {"POSTFIX_SMTP": f"127.0.0.1:{port}"}
    instance.stop("redis")
    try:
        services._run("up", environment=given)
        said = services._run("status", environment=given).splitlines()
    finally:
        instance.stop("postfix")

    runs = [f"{name}: runs in {instance.folder / name}" for name in (*USES, "postfix")]
    assert sorted(said) == sorted(["tools: installed", *runs])


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("mysql", "DB_HOST"),
        ("redis", "REDIS_URL"),
        ("rabbitmq", "RABBITMQ_URL"),
        ("mongodb", "MONGODB_URL"),
    ],
)
def test_a_service_that_is_given_is_passed_on_and_not_started(
    instance: Instance, name: str, variable: str
) -> None:
    folder = instance.folder / "nothing-here"
    given = {
        "PATH": os.environ["PATH"],
        "SERVICES_FOLDER": str(folder),
        variable: "elsewhere.example.com",
    }

    subprocess.run([services.COMMAND, "up", name], env=given, check=True, timeout=30)
    said = subprocess.run(
        [services.COMMAND, "env"], env=given, check=True, timeout=30, capture_output=True, text=True
    ).stdout

    assert said == f"{variable}=elsewhere.example.com\n"
    assert not folder.exists()


def test_says_whose_port_it_cannot_have(instance: Instance) -> None:
    given = {
        "PATH": os.environ["PATH"],
        "SERVICES_FOLDER": str(instance.folder / "second"),
        "REDIS_PORT": str(instance.ports["REDIS_PORT"]),
    }

    answer = subprocess.run(
        [services.COMMAND, "up", "redis"],
        env=given,
        check=False,
        timeout=90,
        capture_output=True,
        text=True,
    )

    assert answer.returncode == 1
    assert "another redis answers already" in answer.stderr
