import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mailtape.data_folder import DataFolder, FolderInUse, put_private

HOLD = """
import sys
from pathlib import Path
from mailtape.data_folder import DataFolder
with DataFolder(Path(sys.argv[1])).owned():
    print("owned", flush=True)
    sys.stdin.read()
"""


def test_a_missing_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "a" / "b")

    with folder.owned():
        assert stat.filemode(folder.path.stat().st_mode) == "drwx------"


def test_a_folder_that_another_process_owns_is_refused_until_that_is_killed(
    tmp_path: Path,
) -> None:
    folder = DataFolder(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"owned\n"

    with pytest.raises(FolderInUse), folder.owned():
        raise AssertionError("two owners")
    holder.kill()
    holder.communicate()

    with folder.owned():
        pass


def test_a_secret_is_put_as_a_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text("old")
    path.chmod(0o644)

    put_private(path, b"new")

    assert path.read_bytes() == b"new"
    assert stat.filemode(path.stat().st_mode) == "-rw-------"
    assert [file.name for file in tmp_path.iterdir()] == ["secrets.json"]


def test_a_secret_never_goes_through_a_link_that_somebody_laid(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    (tmp_path / "token").symlink_to(elsewhere)

    put_private(tmp_path / "token", b"secret")

    assert elsewhere.read_text() == "untouched"
    assert not (tmp_path / "token").is_symlink()


def test_a_secret_that_cannot_be_put_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()

    with pytest.raises(OSError, match="token"):
        put_private(tmp_path / "token", b"secret")

    assert [file.name for file in tmp_path.iterdir()] == ["token"]
