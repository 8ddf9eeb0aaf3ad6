"""`mailtape` by the dozen: the program is loaded once, and each process is a fork of it.

Loading is nearly all that a command costs that ends at once, and most of what a server costs until
it is ready. Each fork has a process, a folder, settings and an end of its own, as if it were
started by itself; what a start by itself needs is tested where the program is started without this.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from served import COMMAND_SECONDS, environment

_MESSAGE_OCTETS = 65_536
_PROGRAM = f"""
import gc, json, os, signal, socket, sys
import mailtape.commands.app, mailtape.serve
import mailtape.fleet.api, mailtape.fleet.ingest, mailtape.fleet.policy, mailtape.fleet.worker
from mailtape.cli import main

gc.freeze()  # what is loaded is left alone, also when a fork ends
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the forks

asked = socket.socket(fileno=0)
while True:
    order, files, _, _ = socket.recv_fds(asked, {_MESSAGE_OCTETS}, 4)
    if not order:
        os._exit(0)
    if os.fork():
        for file in files:
            os.close(file)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = socket.socket(fileno=files.pop())
    if pid := os.fork():
        os.closerange(0, 3)
        for file in files:
            os.close(file)
        told.send(b"%d" % pid)
        told.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    told.close()
    asked.detach()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    given = json.loads(order)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environment"])
    sys.argv = ["mailtape", *given["arguments"]]
    main()
"""


class Fork:
    """A process that was forked; asked about it as `subprocess.Popen` is about its own."""

    def __init__(self, told: socket.socket, stdout: IO[str] | None) -> None:
        self._told = told
        self.stdout = stdout
        self.pid = int(told.recv(20))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Tell how it ended; None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.returncode = int(self._told.recv(20))
            self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; gives how."""
        if self.returncode is None:
            select.select([self._told], [], [], timeout)
        if (code := self.poll()) is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forked:
    """The loaded program."""

    def __init__(self, asking: socket.socket) -> None:
        self._asking = asking

    def run(
        self,
        *arguments: str | Path,
        cwd: Path,
        settings: Mapping[str, str] | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; see `served.run`."""
        with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
            ran = Fork(self._ask(arguments, cwd, settings, stdout, stderr), None)
            try:
                code = ran.wait(seconds)
            finally:
                ran.kill()
            said = [_text(file) for file in (stdout, stderr)]
        return subprocess.CompletedProcess(arguments, code, *said)

    def start(
        self, *arguments: str | Path, cwd: Path, settings: Mapping[str, str], stderr: IO[str]
    ) -> Fork:
        """Start one process; what it prints is to be read from the fork's `stdout`."""
        ours, theirs = os.pipe()
        stdout = os.fdopen(ours)
        with os.fdopen(theirs, "w") as end:
            return Fork(self._ask(arguments, cwd, settings, end, stderr), stdout)

    def _ask(
        self,
        arguments: Sequence[str | Path],
        cwd: Path,
        settings: Mapping[str, str] | None,
        stdout: IO[str],
        stderr: IO[str],
    ) -> socket.socket:
        """Have it forked; gives the socket on which its number and its end are told."""
        order = json.dumps(
            {
                "arguments": [str(argument) for argument in arguments],
                "cwd": str(cwd),
                "environment": environment(**(settings or {})),
            }
        ).encode()
        told, telling = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with ExitStack() as closing:
            closing.callback(telling.close)
            stdin = closing.enter_context(Path(os.devnull).open())
            files = [each.fileno() for each in (stdin, stdout, stderr, telling)]
            socket.send_fds(self._asking, [order], files)
        return told


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


@contextmanager
def loaded(folder: Path) -> Iterator[Forked]:
    """Have the program loaded for as long as the context lasts; `folder` is away from any .env."""
    asking, asked = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with (
        asking,
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], cwd=folder, env=environment(), stdin=asked
        ) as process,
    ):
        asked.close()
        try:
            yield Forked(asking)
        finally:
            asking.close()
            process.wait(COMMAND_SECONDS)
