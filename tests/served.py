"""Whole Mailtape processes, as an operator starts them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from processes import free_ports, is_running, peak_bytes, resident_bytes, tree

MAILTAPE = Path(sys.executable).with_name("mailtape")
DEFAULT_PORTS = (1025, 8025, 10031, 10024)
"""SMTP, HTTP, policy, and LMTP, which listens only when it is told where."""
START_SECONDS = 60
STOP_SECONDS = 35
"""The server promises to drain within 30."""
COMMAND_SECONDS = 60


def environment(**changes: str) -> dict[str, str]:
    """Make an environment with no settings but these."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | changes


def run(
    *arguments: str | Path,
    cwd: Path,
    stdin: str = "",
    settings: Mapping[str, str] | None = None,
    seconds: float = COMMAND_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [MAILTAPE, *arguments],
        cwd=cwd,
        env=environment(**(settings or {})),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Running(Protocol):
    """What is asked of a process; see `subprocess.Popen`."""

    pid: int
    stdout: IO[str] | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class Starting(Protocol):
    """What starts a process by another way; see `forked.Forked`."""

    def start(
        self, *arguments: str | Path, cwd: Path, settings: Mapping[str, str], stderr: IO[str]
    ) -> Running: ...


class Program:
    """A process of Mailtape: started, ended or killed, and started again as it was."""

    process: Running
    said: str
    """What it printed until it was ready."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        settings: Mapping[str, str],
        mailtape: Starting | None = None,
    ) -> None:
        """Have it started by itself, as an operator does, or as a fork of the loaded program."""
        self.mailtape = mailtape
        self.under: Sequence[str | Path] = ()
        """What starts it, when it is started by itself, in a way of its own."""
        self.log = log
        self.settings = settings
        self._command = command

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def children(self) -> list[int]:
        """The process ids of what it started."""
        return tree(self.pid)[1:]

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it and do not wait."""
        self._asked = False
        with self.log.open("a") as errors:
            self.process = self._started(errors)

    def _started(self, errors: IO[str]) -> Running:
        cwd = self.log.parent  # away from a developer's .env
        if self.mailtape is not None:
            return self.mailtape.start(
                *self._command, cwd=cwd, settings=self.settings, stderr=errors
            )
        return subprocess.Popen(
            [*self.under, MAILTAPE, *self._command],
            cwd=cwd,
            env=environment(**self.settings),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def wait_until_ready(self, seconds: float = START_SECONDS) -> list[str]:
        """Wait until it says so; gives the addresses that it names."""
        gave_up = threading.Timer(seconds, self.process.kill)
        gave_up.start()
        self.said = line = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.split()[:1] == ["ready"]:
                break
        gave_up.cancel()
        name, *addresses = line.split() or [""]
        assert name == "ready", f"it ended before: {self.log.read_text()[-8000:]}"
        return addresses

    def ask_to_stop(self) -> None:
        """Send SIGTERM and go on."""
        self._asked = True
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to end, unless it was asked, and wait for that.

        A second SIGTERM may find it past its last handler, and then that is what it dies of.
        """
        if not self._asked:
            self.ask_to_stop()
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Kill it, and wait until its children have noticed and gone."""
        children = self.children
        self.process.kill()
        self._gone(children)

    def resident_bytes(self) -> int:
        """Tell how much memory the process itself has."""
        return resident_bytes(self.pid)

    def peak_bytes(self) -> list[int]:
        """Tell the most memory that each of the children ever had."""
        return [peak_bytes(child) for child in self.children]

    def close(self) -> None:
        """Make sure that nothing of it runs any more."""
        children = self.children if is_running(self.pid) else []
        if self.process.poll() is None:
            self.process.kill()
        self._gone(children)

    def _gone(self, children: list[int]) -> None:
        self.process.wait(STOP_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        deadline = time.monotonic() + STOP_SECONDS
        while left := [child for child in children if is_running(child)]:
            if time.monotonic() > deadline:
                for child in left:
                    os.kill(child, signal.SIGKILL)
                raise AssertionError(f"children that outlived their server: {left}")
            time.sleep(0.01)


class Served(Program):
    """A `mailtape serve` on a folder."""

    def __init__(
        self,
        folder: Path,
        log: Path,
        settings: Mapping[str, str],
        mailtape: Starting | None = None,
        *,
        as_printed: bool = False,
    ) -> None:
        self.folder = folder
        smtp, http, policy, lmtp = DEFAULT_PORTS if as_printed else free_ports(4)
        self.http = f"http://127.0.0.1:{http}"
        self.smtp = f"127.0.0.1:{smtp}"
        self.policy = f"127.0.0.1:{policy}"
        self.lmtp = f"127.0.0.1:{lmtp}"
        self.smtp_port = smtp
        command: list[str | Path] = ["serve"]
        if not as_printed:
            command += ["--data", folder]
            command += ["--http", self.http.removeprefix("http://"), "--smtp", self.smtp]
            command += ["--policy", self.policy, "--lmtp", self.lmtp]
        super().__init__(command, log, settings, mailtape)

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of HTTP."""
        host, _, port = self.http.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def token(self) -> str:
        """The token of the first start."""
        given = self.settings.get("MAILTAPE_API_TOKEN")
        return given or (self.folder / "token").read_text().strip()

    def wait_until_ready(self, seconds: float = START_SECONDS) -> list[str]:
        """Wait until it says so; gives the addresses that it names."""
        addresses = super().wait_until_ready(seconds)
        assert addresses[:2] == [self.http, f"smtp://{self.smtp}"]
        return addresses


@contextmanager
def serving(
    folder: Path,
    log: Path,
    mailtape: Starting | None = None,
    *,
    as_printed: bool = False,
    **settings: str,
) -> Iterator[Served]:
    """Serve a folder on free ports for as long as the context lasts.

    `as_printed` starts it as README says, without a word more: the folder is `var` beside the log,
    and the ports are the default ones, which must be free.

    Whatever a test does to it from outside, nothing in it may fail in a way that nobody foresaw:
    a traceback in its log fails the test. On a failure the log is shown.
    """
    served = Served(folder, log, settings, mailtape, as_printed=as_printed)
    begin = log.stat().st_size if log.exists() else 0
    try:
        served.start()
        try:
            yield served
        finally:
            served.close()
        assert "Traceback" not in log.read_text()[begin:], "it failed in a way nobody foresaw"
    except BaseException:
        print(f"--- the end of {log}\n{log.read_text()[begin:][-20_000:]}")
        raise
