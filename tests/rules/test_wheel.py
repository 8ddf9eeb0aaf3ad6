"""The wheel puts our packages, and nothing else of ours, on a user's import path."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a wheel that was built just now holds."""
    folder = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "build", "--wheel", "--quiet", "--no-create-gitignore", "--out-dir", folder, ROOT],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_has_the_packages_and_its_metadata_at_the_top(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "mailtape",
        "mailtape_ingest",
        "mailtape_policy",
        "mailtape_workers",
    }
    assert len(tops) == 5


def test_carries_what_is_not_python_but_needed_at_run_time(names: list[str]) -> None:
    assert "mailtape/py.typed" in names
    assert "mailtape/services/common_passwords.txt" in names
    assert any(name.startswith("mailtape/rows/migrations/versions/0001") for name in names)


def test_carries_no_cache_of_a_tool(names: list[str]) -> None:
    assert [name for name in names if "cache" in name] == []
