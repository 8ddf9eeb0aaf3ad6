"""A fleet: `mailtape api`, `ingest`, `policy` and `worker`, several of each, on one set of servers.

Each process has a data folder of its own, as on a machine of its own; what they share is what the
settings name. Every one is started, paused, ended or killed by itself, and started again where it
was.
"""

import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Self

import hardened as hardening
import services
from forked import Forked
from owners import Owner, owning
from processes import free_ports
from served import COMMAND_SECONDS, Program, run

DOMAIN = "mail.example.com"
_DOORS: Mapping[str, Mapping[str, str]] = {
    "api": {"http": "--http"},
    "ingest": {"smtp": "--smtp", "lmtp": "--lmtp"},
    "policy": {"policy": "--listen"},
    "worker": {},
}
"""What each role listens for, and the flag that says where."""
_MOST_DOORS = 2
_START_SECONDS = 180
"""Each loads for seconds, and all of them at once on the cores that there are."""
_VERIFIED_SECONDS = 900
_LOG_TAIL = 8_000


class Process(Program):
    """One process of a fleet."""

    def __init__(
        self,
        role: str,
        folder: Path,
        settings: Mapping[str, str],
        listen: Mapping[str, str] | None = None,
        mailtape: Forked | None = None,
        *,
        hardened: bool = False,
    ) -> None:
        """Choose free ports for what `listen` does not say; nothing runs yet.

        An API shows its own metrics at one that it shares with no other. If it is `hardened`, it
        may make those system calls alone that its systemd unit leaves it.
        """
        self.role = role
        doors = _DOORS[role]
        self.listen = {
            name: f"127.0.0.1:{port}"
            for name, port in zip(doors, free_ports(_MOST_DOORS), strict=False)
        } | dict(listen or {})
        self.metrics = f"127.0.0.1:{free_ports(1)[0]}"
        if role == "api":
            settings = {"METRICS_LISTEN": self.metrics, **settings}
        self.folder = folder
        command: list[str | Path] = [role, "--data", folder]
        for name, flag in doors.items():
            command += [flag, self.listen[name]]
        self._notices: socket.socket | None = None
        self._notify_socket = f"@mailtape-{secrets.token_hex(8)}"
        told = {**settings, "NOTIFY_SOCKET": self._notify_socket}
        super().__init__(command, folder.with_suffix(".log"), told, mailtape)
        if hardened:
            unit = hardening.UNITS / f"mailtape-{role}@.service"
            self.under = (sys.executable, hardening.__file__, unit)

    def launch(self) -> None:
        """Start it and do not wait; what it tells systemd from then on is heard."""
        self._hear_no_more()
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(self._notify_socket.replace("@", "\0"))
        super().launch()

    def close(self) -> None:
        """Make sure that nothing of it runs any more."""
        super().close()
        self._hear_no_more()

    def notices(self) -> list[str]:
        """List what it has told systemd (sd_notify(3)) since it was asked for last."""
        assert self._notices is not None, "it was launched"
        heard = []
        with suppress(BlockingIOError):
            while True:
                heard.append(self._notices.recv(1000, socket.MSG_DONTWAIT).decode())
        return heard

    @property
    def has_said_ready(self) -> bool:
        """Whether it has told systemd so since it was launched; `notices` still lists it."""
        assert self._notices is not None, "it was launched"
        with suppress(BlockingIOError):
            first = self._notices.recv(1000, socket.MSG_DONTWAIT | socket.MSG_PEEK)
            return first == b"READY=1"
        return False

    def _hear_no_more(self) -> None:
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    @property
    def http(self) -> str:
        """Where an API answers."""
        return f"http://{self.listen['http']}"

    @property
    def smtp(self) -> str:
        """Where an ingest takes mail from anybody."""
        return self.listen["smtp"]

    @property
    def lmtp(self) -> str:
        """Where an ingest takes mail from a relay."""
        return self.listen["lmtp"]

    @property
    def policy(self) -> str:
        """Where a policy daemon is asked."""
        return self.listen["policy"]

    def pause(self) -> None:
        """Let it and its children neither answer nor refuse."""
        for pid in (self.pid, *self.children):
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        for pid in (self.pid, *self.children):
            os.kill(pid, signal.SIGCONT)


class Fleet:
    """The processes on one set of servers, and what all of them are told."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        mailtape: Forked | None = None,
        *,
        hardened: bool = False,
    ) -> None:
        self.folder = folder
        self.mailtape = mailtape
        self._hardened = hardened
        self.token = secrets.token_hex(24)
        self.settings = {
            "DOMAIN": DOMAIN,
            "JWT_SECRET": secrets.token_hex(32),
            "API_TOKEN_SALT": secrets.token_hex(32),
            "MAILTAPE_API_TOKEN": self.token,
            "DB_CONNECTIONS": "4",  # the server has so many for all fleets of all tests
            "WORKERS": "1",
            **settings,
        }
        self.processes: list[Process] = []

    def migrate(self) -> None:
        """Bring the servers to this release."""
        done = self.run("migrate")
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, command: str, seconds: float = COMMAND_SECONDS) -> CompletedProcess[str]:
        """Run one command on the servers to its end."""
        runs = run if self.mailtape is None else self.mailtape.run
        data = self.folder / "first"
        return runs(
            command, "--data", data, cwd=self.folder, settings=self.settings, seconds=seconds
        )

    def add(self, role: str, listen: Mapping[str, str] | None = None, **settings: str) -> Process:
        """Give it one more process, which is not started."""
        number = len(self.processes)
        process = Process(
            role,
            self.folder / f"{number}-{role}",
            self.settings | settings,
            listen,
            self.mailtape,
            hardened=self._hardened,
        )
        self.processes.append(process)
        return process

    def start(self, **counts: int) -> Self:
        """Start so many of each role at the same time, and wait until all are ready."""
        started = [self.add(role) for role, count in counts.items() for _ in range(count)]
        for process in started:
            process.launch()
        for process in started:
            process.wait_until_ready(_START_SECONDS)
        return self

    def fork_from(self, mailtape: Forked) -> None:
        """Have whatever is started from now on be a fork of the loaded program."""
        self.mailtape = mailtape
        for process in self.processes:
            process.mailtape = mailtape

    def of(self, role: str) -> list[Process]:
        """List the processes of a role."""
        return [process for process in self.processes if process.role == role]

    def close(self) -> None:
        """Make sure that nothing of it runs any more."""
        with ExitStack() as closing:
            for process in self.processes:
                if hasattr(process, "process"):
                    closing.callback(process.close)

    def faults(self) -> list[str]:
        """List the processes that failed in a way that nobody foresaw."""
        return [process.log.name for process in self.processes if "Traceback" in _text(process.log)]

    def print_logs(self) -> None:
        """Print the end of what each process has written."""
        for process in self.processes:
            print(f"--- the end of {process.log}\n{_text(process.log)[-_LOG_TAIL:]}")


def _text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


@contextmanager
def fleet(
    folder: Path,
    settings: Mapping[str, str],
    mailtape: Forked | None = None,
    *,
    hardened: bool = False,
    **counts: int,
) -> Iterator[Fleet]:
    """Run a fleet of so many processes of each role for as long as the context lasts.

    Whatever a test does to it from outside, nothing in it may fail in a way that nobody foresaw: a
    traceback in a log fails the test. On a failure the logs are shown.
    """
    made = Fleet(folder, settings, mailtape, hardened=hardened)
    try:
        made.migrate()
        try:
            yield made.start(**counts)
        finally:
            made.close()
        assert made.faults() == [], "they failed in a way nobody foresaw"
    except BaseException:
        made.print_logs()
        raise


def assert_sound(ended: Fleet) -> None:
    """Have everything on the servers verified, of a fleet that ended."""
    verified = ended.run("verifydata", _VERIFIED_SECONDS)
    assert verified.returncode == 0, verified.stdout + verified.stderr


@contextmanager
def places() -> Iterator[dict[str, str]]:
    """Make places of a test's own on the shared servers; gives the variables that lead there.

    Redis is one of its own: what fleets count there is not to be told apart by a prefix.
    """
    with (
        services.own_database() as rows,
        services.own_documents() as documents,
        services.own_vhost() as queue,
        services.running("redis") as redis,
    ):
        names = ("DB_", "MONGODB_", "RABBITMQ_")
        merged: dict[str, str] = {}
        for given, name in zip((rows, documents, queue), names, strict=True):
            merged |= {key: value for key, value in given.items() if key.startswith(name)}
        yield merged | redis.variables()


@contextmanager
def local(api: Process) -> Iterator[Owner]:
    """Speak to an API as the owner of the first token, whose organisation has no limits."""
    with owning(api.http, api.settings["MAILTAPE_API_TOKEN"]) as owner:
        yield owner


class Asking:
    """A connection to a policy daemon, as Postfix has it."""

    def __init__(self, policy: str, *, seconds: float = 10) -> None:
        host, _, port = policy.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), seconds)
        self._replies = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self.socket.close()

    def ask(self, recipient: str, **more: str) -> str:
        """Ask one question; gives the action.

        Raises:
            OSError: the connection died before it came.
        """
        attributes = {
            "request": "smtpd_access_policy",
            "protocol_state": "RCPT",
            "recipient": recipient,
            "instance": secrets.token_hex(8),
            **more,
        }
        lines = "".join(f"{name}={value}\n" for name, value in attributes.items())
        self.socket.sendall(lines.encode() + b"\n")
        action = self._replies.readline()
        if self._replies.readline() != b"\n":
            raise ConnectionResetError("no reply")
        return action.decode().removeprefix("action=").strip()


def asked(policy: str, recipient: str, **more: str) -> str:
    """Ask a policy daemon one question over a connection of its own; gives the action."""
    with Asking(policy) as asking:
        return asking.ask(recipient, **more)
