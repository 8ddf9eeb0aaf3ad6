"""A disk of a few megabytes that can be filled and freed again."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 64 * 1024


class SmallDisk:
    """A mounted file system of memory; what is put on it to fill it is called ballast."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Use up all that is free, to the last block."""
        with self._ballast.open("ab", buffering=0) as ballast:
            size = _CHUNK
            while size:
                try:
                    ballast.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        """Throw the ballast away."""
        self._ballast.unlink()


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount one for as long as the context lasts; only root may."""
    assert os.geteuid() == 0, "a full disk needs a mount, and a mount needs root"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "mailtape-test"]
    subprocess.run([*mount, str(path)], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)
