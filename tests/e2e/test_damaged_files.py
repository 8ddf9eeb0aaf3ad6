"""A file that is no database ends a command with a sentence, not with a traceback."""

import os
from pathlib import Path

import pytest

from forked import Forked

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("name", ["mailtape.sqlite3", "queue.sqlite3", "bodies.sqlite3"])
@pytest.mark.parametrize(
    "command",
    [("serve", "--http", "127.0.0.1:0", "--smtp", "127.0.0.1:0"), ("verifydata",)],
    ids=["serve", "verifydata"],
)
def test_a_damaged_file_is_named_in_a_sentence(
    tmp_path: Path, name: str, command: tuple[str, ...], mailtape: Forked
) -> None:
    folder = tmp_path / "data"
    mailtape.run("migrate", "--data", folder, cwd=tmp_path)
    (folder / name).write_bytes(b"garbage" * 100)

    ended = mailtape.run(*command, "--data", folder, cwd=tmp_path)

    assert ended.returncode in {1, os.EX_IOERR}
    assert "damaged" in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
