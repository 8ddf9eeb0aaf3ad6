"""Real mail that is on every development machine: the test data of installed packages."""

import functools
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_SUFFIXES = frozenset({".eml", ".msg", ".mbox", ".email"})
_TESTS = frozenset({"test", "tests", "data", "testdata", "fixtures"})
_MOST = 500
_LARGEST = 4 * 1024 * 1024


def samples() -> Iterator[tuple[str, bytes]]:
    """Find mails in the standard library's and other packages' tests, as `(name, bytes)`.

    Both as they lie there and with the CRLF that a mail has on the wire. A Python that comes
    without its tests has few or none: who needs them must look how many there are.
    """
    for path in _paths():
        data = path.read_bytes()
        yield path.name, data
        if b"\r\n" not in data:
            yield f"{path.name} (CRLF)", data.replace(b"\n", b"\r\n")


@functools.cache
def _paths() -> tuple[Path, ...]:
    folders = {Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))}
    found: set[Path] = set()
    for folder in folders:
        for path in (folder / "test").rglob("msg_*.txt"):
            found.add(path)
        for suffix in _SUFFIXES:
            found.update(folder.rglob(f"*{suffix}"))
    mails = [path for path in sorted(found) if path.is_file() and _is_mail(path)]
    return tuple(mails[:_MOST])


def _is_mail(path: Path) -> bool:
    if path.stat().st_size > _LARGEST or not _TESTS & set(path.parts):
        return False
    return b":" in path.read_bytes()[:2048]
