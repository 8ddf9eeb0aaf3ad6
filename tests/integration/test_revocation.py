"""Sessions that end at one process of the API end at all: each asks the same rows every time."""

from pathlib import Path

import pytest
from sqlalchemy import URL

import mysql
from installation import open_installation
from people import WAYS_OUT, is_let_in, register

pytestmark = pytest.mark.services


@pytest.mark.parametrize("way_out", WAYS_OUT)
async def test_a_session_that_ends_at_one_process_is_refused_at_another_at_once(
    migrated_mysql: URL, tmp_path: Path, way_out: str
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    async with (
        mysql.rows_of(migrated_mysql) as rows,
        mysql.rows_of(migrated_mysql) as other_rows,
        open_installation(tmp_path / "one", elsewhere=rows) as one,
        open_installation(tmp_path / "other", elsewhere=other_rows) as other,
    ):
        grant = (await register(one.client)).json()
        assert await is_let_in(other.client, grant["access_token"])

        await WAYS_OUT[way_out](one.client, grant)

        assert not await is_let_in(other.client, grant["access_token"])
        assert not await is_let_in(one.client, grant["access_token"])
