"""The programs under load: `mailtape serve` on a data folder of its own, and Postfix's `smtp-sink`.

Both are started here on free loopback ports, and ended by their process id when the block ends.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from processes import free_ports, resident_bytes, tree

MAILTAPE = Path(sys.executable).with_name("mailtape")
TOKEN = "bench-" + "t" * 40
READY_WITHIN = 60.0
"""Seconds from start to `ready`; a migration of an empty folder is part of it."""
DRAIN_WITHIN = 40.0
"""Seconds after SIGTERM; the server promises 30."""

_COUNT = re.compile(rb"mesg=(\d+)\r")
_COUNT_OCTETS = 200
"""The last of what a sink has written holds one count at the least."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running `mailtape serve`."""

    pid: int
    smtp_port: int
    lmtp_port: int
    http_port: int
    policy_port: int

    def resident_bytes(self) -> int:
        """Resident memory summed over the process tree; a shared page counts once a process."""
        return sum(resident_bytes(pid) for pid in tree(self.pid))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Starts the embedded platform in `folder`, waits for its `ready`, stops it at the end."""
    smtp, lmtp, http, policy = free_ports(4)
    command = [str(MAILTAPE), "serve", "--data", str(folder / "data")]
    listeners = {"--smtp": smtp, "--lmtp": lmtp, "--http": http, "--policy": policy}
    for flag, port in listeners.items():
        command += [flag, f"127.0.0.1:{port}"]
    log = folder / "serve.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            env=os.environ | {"MAILTAPE_API_TOKEN": TOKEN, "DOMAIN": "mail.example.com"},
            cwd=folder,  # away from a developer's .env
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        _wait_until_ready(process, log)
        yield Server(process.pid, smtp, lmtp, http, policy)
    finally:
        _end(process, DRAIN_WITHIN)


@contextlib.contextmanager
def sinking(*, lmtp: bool = False, counts: Path | None = None) -> Iterator[int]:
    """Starts `smtp-sink`, which takes mail and throws it away; gives its port.

    It writes into `counts` how many it took, for `sunk`.
    """
    (port,) = free_ports(1)
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    flags = [*(["-L"] if lmtp else []), *(["-c"] if counts else []), *user]
    with (counts or Path(os.devnull)).open("wb") as written:
        process = subprocess.Popen(
            ["smtp-sink", *flags, f"127.0.0.1:{port}", "1000"], stdout=written
        )
    try:
        _wait_until_greeted(port)
        yield port
    finally:
        _end(process, 5.0)


def sunk(counts: Path) -> int:
    """How many mails a sink has taken that writes into `counts`."""
    with counts.open("rb") as written:
        written.seek(max(0, written.seek(0, os.SEEK_END) - _COUNT_OCTETS))
        found = _COUNT.findall(written.read())
    return int(found[-1]) if found else 0


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.stdout is not None
    gave_up = threading.Timer(READY_WITHIN, process.kill)
    gave_up.start()
    said_ready = any(line.startswith(b"ready") for line in process.stdout)
    gave_up.cancel()
    if not said_ready:
        raise SystemExit(
            f"mailtape serve did not start:\n{log.read_text(errors='replace')[-4000:]}"
        )
    threading.Thread(target=process.stdout.read, daemon=True).start()  # so that it never blocks


def _wait_until_greeted(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                if connection.recv(3) == b"220":
                    return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _end(process: subprocess.Popen[bytes], within: float) -> None:
    process.terminate()
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        sys.stderr.write(f"{process.args!r} did not end within {within:g} s of SIGTERM\n")
