"""What every process needs of its system: signals, open files, memory, a word to systemd."""

import asyncio
import gc
import os
import resource
import signal
import socket

import structlog

from mailtape.http_server import LINGERING
from mailtape.settings import Settings

log = structlog.get_logger(__name__)

_OTHER_FILES = 200 + LINGERING
"""Beside the connections: files and sockets of the stores, the children's sockets, listeners."""


def with_open_files(settings: Settings) -> Settings:
    """Have the system allow as many open files as the settings need, or fit the settings to it."""
    return within_open_files(settings, _allow_open_files(open_files_wanted(settings)))


def open_files_wanted(settings: Settings) -> int:
    """Count the files that a process may have open at a time when all is used that is set."""
    return _connections(settings) + _OTHER_FILES


def _allow_open_files(wanted: int) -> int:
    """Raise the limit of open files to `wanted`, or as far as it goes; returns which it was.

    1,024, which many systems give, is reached by SMTP alone.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def within_open_files(settings: Settings, allowed: int) -> Settings:
    """Take fewer connections when the system allows no files for as many as are set.

    Out of files the stores fail too, and who connects is cut off without a word: better to send
    some away with a reply.
    """
    wanted, left = _connections(settings), allowed - _OTHER_FILES
    if left >= wanted:
        return settings
    fitted = {
        "smtp_max_connections": max(1, settings.smtp_max_connections * left // wanted),
        "http_max_connections": max(1, settings.http_max_connections * left // wanted),
        "policy_max_connections": max(1, settings.policy_max_connections * left // wanted),
    }
    log.warning("process.few_open_files", allowed=allowed, **fitted)
    return settings.model_copy(update=fitted)


def _connections(settings: Settings) -> int:
    """Count what all doors together may hold open; LMTP has as many as SMTP, if it listens."""
    wires = 1 if settings.lmtp_listen is None else 2
    return (
        settings.smtp_max_connections * wires
        + settings.http_max_connections
        + settings.policy_max_connections
    )


async def try_to_open_a_file() -> int:
    """Fail when no file can be opened, so that the log has a line about it.

    Out of files, uvloop hangs up on whoever comes and tells nobody.
    """
    os.close(os.open(os.devnull, os.O_RDONLY))
    return 0


def settle_memory() -> None:
    """Take what was loaded at the start out of the garbage collector's sight.

    It stays for as long as the process does, and looking through all of it stopped everything for a
    tenth of a second now and then.
    """
    gc.collect()
    gc.freeze()


def on_signal() -> asyncio.Event:
    """Own the signals: nobody else in this process tree has handlers for them."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def tell_ready(settings: Settings, *addresses: str) -> None:
    """Say on standard output, and to systemd when it asked, that all can be served."""
    _notify(settings, "READY=1")
    print("ready", *addresses, flush=True)  # noqa: T201 - scripts wait for it


def tell_stopping(settings: Settings) -> None:
    """Say that the process ends, as soon as what has begun is done."""
    _notify(settings, "STOPPING=1")
    log.info("process.draining")


def _notify(settings: Settings, state: str) -> None:
    """Send a line to systemd (sd_notify(3)); a name that begins with @ is an abstract socket."""
    name = settings.notify_socket
    if name is None:
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.sendto(state.encode(), address)
    except OSError as error:
        log.warning("process.not_notified", reason=error.strerror)
