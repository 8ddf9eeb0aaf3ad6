from pathlib import Path

import pytest

from mailtape.roles.process import within_open_files
from mailtape.settings import HostPort, Settings, read_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    env_file = tmp_path / ".env"
    env_file.write_text(
        "SMTP_MAX_CONNECTIONS=2000\nHTTP_MAX_CONNECTIONS=1000\nPOLICY_MAX_CONNECTIONS=500\n"
    )
    return read_settings(env_file)


def test_takes_as_many_connections_as_set_when_there_are_files_for_them(settings: Settings) -> None:
    assert within_open_files(settings, 4096) == settings


@pytest.mark.parametrize("allowed", [3600, 1024, 600])
def test_every_door_full_at_once_leaves_files_for_the_rest(
    settings: Settings, allowed: int
) -> None:
    with_lmtp = settings.model_copy(update={"lmtp_listen": HostPort("127.0.0.1", 0)})

    for each, wires in ((settings, 1), (with_lmtp, 2)):
        fitted = within_open_files(each, allowed)
        taken = (
            wires * fitted.smtp_max_connections
            + fitted.http_max_connections
            + fitted.policy_max_connections
        )
        assert taken <= allowed - 300


@pytest.mark.parametrize("allowed", [1024, 600])
def test_takes_fewer_connections_than_files_are_allowed(settings: Settings, allowed: int) -> None:
    fitted = within_open_files(settings, allowed)

    taken = fitted.smtp_max_connections + fitted.http_max_connections
    assert allowed // 4 < taken < allowed
    assert fitted.smtp_max_connections > fitted.http_max_connections > 10


def test_still_takes_a_connection_where_next_to_no_files_are_allowed(settings: Settings) -> None:
    fitted = within_open_files(settings, 100)

    assert (fitted.smtp_max_connections, fitted.http_max_connections) == (1, 1)
