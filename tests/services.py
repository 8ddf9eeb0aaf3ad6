"""The real services that tests talk to, as `deploy/services` gives them.

Two kinds. The shared ones run already; a test makes a place of its own there, which nobody else
sees and which is gone afterwards: `own_database`, `own_documents`, `own_keys`, `own_vhost`. It
never stops, pauses or empties the service itself: for that it starts an `Instance`, with its own
folder and ports, which dies with the test. A service that is not there fails the test.
"""

import functools
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pymongo
import pymysql
import redis

import processes
import served

COMMAND = Path(__file__).parents[1] / "deploy" / "services"
_FOLDER = Path(os.environ.get("SERVICES_FOLDER", "/var/tmp/mailtape-services"))
_FIRST = {
    "mysql": "DB_HOST",
    "redis": "REDIS_URL",
    "rabbitmq": "RABBITMQ_URL",
    "mongodb": "MONGODB_URL",
}
_PORTS = {
    "mysql": ["MYSQL_PORT"],
    "redis": ["REDIS_PORT"],
    "rabbitmq": ["RABBITMQ_PORT", "RABBITMQ_DISTRIBUTION_PORT", "RABBITMQ_EPMD_PORT"],
    "mongodb": ["MONGODB_PORT"],
}
_SECONDS = 180
_END_SECONDS = 10


def variables(*names: str) -> dict[str, str]:
    """Tell where shared services are: what Mailtape's settings are given to use them."""
    given = _shared()
    for name in names:
        assert _FIRST[name] in given, f"{name} does not run; first: deploy/services up {name}"
    return dict(given)


@functools.cache
def _shared() -> Mapping[str, str]:
    return _parsed(_run("env", *_FIRST, environment=os.environ))


def _parsed(lines: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines.splitlines())


def _run(*arguments: str, environment: Mapping[str, str]) -> str:
    answer = subprocess.run(
        [COMMAND, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert answer.returncode == 0, f"deploy/services {arguments}: {answer.stdout}{answer.stderr}"
    return answer.stdout


@contextmanager
def own_database() -> Iterator[dict[str, str]]:
    """Make an empty database on the shared MySQL; gives the `DB_` variables that lead to it."""
    given = variables("mysql")
    name = f"test_{secrets.token_hex(8)}"
    _execute(given, f"CREATE DATABASE {name}")
    try:
        yield given | {"DB_NAME": name}
    finally:
        _execute(given, f"DROP DATABASE {name}")


def _execute(given: Mapping[str, str], statement: str) -> None:
    with closing(connect_mysql(given)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


def connect_mysql(given: Mapping[str, str]) -> pymysql.Connection:
    """Connect to the database that the `DB_` variables name; commits each statement."""
    return pymysql.connect(
        host=given["DB_HOST"],
        port=int(given["DB_PORT"]),
        user=given["DB_USER"],
        password=given["DB_PASSWORD"],
        database=given["DB_NAME"],
        autocommit=True,
        connect_timeout=5,
        read_timeout=30,
    )


@contextmanager
def own_documents() -> Iterator[dict[str, str]]:
    """Name a database on the shared MongoDB; gives the `MONGODB_` variables that lead to it."""
    given = variables("mongodb")
    name = f"test_{secrets.token_hex(8)}"
    try:
        yield given | {"MONGODB_DATABASE": name}
    finally:
        with pymongo.MongoClient(given["MONGODB_URL"], serverSelectionTimeoutMS=5000) as client:
            client.drop_database(name)


@contextmanager
def own_keys() -> Iterator[str]:
    """Choose a prefix that no key of the shared Redis begins with."""
    prefix = f"test:{secrets.token_hex(8)}:"
    try:
        yield prefix
    finally:
        with redis.Redis.from_url(variables("redis")["REDIS_URL"]) as client:
            for key in client.scan_iter(match=f"{prefix}*", count=1000):
                client.unlink(key)


@contextmanager
def own_vhost() -> Iterator[dict[str, str]]:
    """Make a virtual host on the shared RabbitMQ; gives the `RABBITMQ_` variables that lead to it.

    It takes seconds: one for a module or a session will do, with queues of each test's own in it.
    """
    given = variables("rabbitmq")
    name = f"test-{secrets.token_hex(8)}"
    rabbitmqctl("add_vhost", name)
    try:
        rabbitmqctl("set_permissions", "--vhost", name, "guest", ".*", ".*", ".*")
        yield given | {"RABBITMQ_URL": given["RABBITMQ_URL"].rstrip("/") + f"/{name}"}
    finally:
        rabbitmqctl("delete_vhost", name)


def rabbitmqctl(*arguments: str) -> str:
    """Run that command on the shared RabbitMQ; gives what it says."""
    return _run("rabbitmqctl", "--quiet", *arguments, environment=os.environ)


class Instance:
    """Services of a test's own, to be killed, paused and started again with their data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = [name for each in _PORTS.values() for name in each]
        self.ports = dict(zip(names, processes.free_ports(len(names)), strict=True))
        self._environment = served.environment(
            SERVICES_FOLDER=str(folder),
            SERVICES_PROGRAMS=str(_FOLDER / "programs"),
            **{name: str(port) for name, port in self.ports.items()},
        )

    def start(self, *names: str) -> None:
        """Bring services up, also ones that were killed; returns when they answer."""
        _run("up", *names, environment=self._environment)

    def stop(self, *names: str) -> None:
        """Stop services as an operator does; all when none is named."""
        _run("down", *names, environment=self._environment)

    def status(self, name: str) -> str:
        """Tell in a line how a service does."""
        return _run("status", name, environment=self._environment).strip()

    def variables(self) -> dict[str, str]:
        """Tell where its services are; only of those that run."""
        return _parsed(_run("env", *_FIRST, environment=self._environment))

    def pid(self, name: str) -> int:
        """Tell the process that is the service, as long as it was started and not stopped."""
        return int((self.folder / name / "pid").read_text())

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run that command on its RabbitMQ; gives what it says."""
        return _run("rabbitmqctl", "--quiet", *arguments, environment=self._environment)

    def kill(self, name: str) -> None:
        """End a service by SIGKILL; returns when it is gone.

        RabbitMQ writes down that a quorum queue exists half a second after it was declared: one
        that dies before finds the queue without its messages, and without a leader for ever.
        """
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_SECONDS
        while processes.is_running(pid):
            assert time.monotonic() < deadline, f"{name} outlives SIGKILL"
            time.sleep(0.01)

    def pause(self, name: str) -> None:
        """Let a service neither answer nor refuse, as a machine that hangs."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a paused service go on."""
        os.kill(self.pid(name), signal.SIGCONT)


@contextmanager
def running(*names: str) -> Iterator[Instance]:
    """Run services of a test's own for as long as the context lasts.

    Their folder is not pytest's, which only its owner may enter: servers have users of their own.
    """
    prefix = "mailtape-services-"
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir="/var/tmp", ignore_cleanup_errors=True
    ) as folder:
        Path(folder).chmod(0o711)
        instance = Instance(Path(folder))
        try:
            instance.start(*names)
            yield instance
        finally:
            instance.stop()
