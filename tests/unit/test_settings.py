import re
from pathlib import Path

import pytest

from mailtape import settings_reference
from mailtape.foreign_settings import CALLED_OTHERWISE
from mailtape.settings import (
    SECTIONS,
    HostPort,
    Settings,
    WrongSettings,
    allowed,
    is_weak,
    read_settings,
)
from mailtape_workers.parsers import ParserSettings

ROOT = Path(__file__).parents[2]
STRONG = {
    "JWT_SECRET": "vN3kq0Zt7yXw2LrB9pHs4EdJ6mUcAf8G",
    "API_TOKEN_SALT": "Qe5Tz1Rb8WnYk3Vx7MgLs0Pd2Hj6CuFa",
}
READ_AHEAD = {"frontend_url"}
"""Names that operators set already and that this release has nothing for; the reference says so."""


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, *CALLED_OTHERWISE]:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def faults_of(env_file: Path, **flags: str) -> tuple[str, ...]:
    with pytest.raises(WrongSettings) as wrong:
        read_settings(env_file, **flags)
    return wrong.value.faults


def test_needs_no_setting_at_all(env_file: Path) -> None:
    settings = read_settings(env_file)

    assert str(settings.http_listen) == "127.0.0.1:8025"
    assert str(settings.smtp_listen) == "127.0.0.1:1025"
    assert str(settings.policy_listen) == "127.0.0.1:10031"
    assert settings.lmtp_listen is None
    assert settings.data_dir == Path("var")
    assert settings.domain == "mail.example.com"
    assert settings.smtp_max_message_bytes == 30 * 2**20
    assert settings.capture
    assert settings.registration_open
    assert settings.worker_processes >= 1


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("WORKERS=2\nDOMAIN=file.example\nLOG_LEVEL=error\n")
    monkeypatch.setenv("WORKERS", "3")
    monkeypatch.setenv("DOMAIN", "environment.example")

    settings = read_settings(env_file, workers="4", domain=None)

    assert (settings.workers, settings.domain, settings.log_level) == (
        4,
        "environment.example",
        "error",
    )


def test_an_empty_value_is_as_none(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORKERS", "SMTP_LISTEN", "JWT_SECRET", "BACKEND_URL", "DB_HOST", "SECRET_KEY"):
        monkeypatch.setenv(name, "")

    settings = read_settings(env_file)

    assert settings.workers is None
    assert settings.smtp_listen == HostPort("127.0.0.1", 1025)
    assert settings.jwt_secret is None


def test_tells_every_fault_at_once(env_file: Path) -> None:
    env_file.write_text("WORKERS=0\nSMTP_LISTEN=here\nREDIS_HOST=x\nMAILTAPE_TOKEN=x\n")

    faults = faults_of(env_file)

    assert [fault.split()[0] for fault in faults] == [
        "MAILTAPE_TOKEN",
        "REDIS_HOST",
        "SMTP_LISTEN",
        "WORKERS",
    ]


def test_never_repeats_a_secret(env_file: Path) -> None:
    env_file.write_text(
        "JWT_SECRET=tooshort\nAPI_TOKEN_SALT=shorter\nMAILTAPE_API_TOKEN=not a token\n"
        "MAILTAPE_ADMIN_PASSWORD=tiny\n"
    )

    told = "\n".join(faults_of(env_file))

    for secret in ("tooshort", "shorter", "not a token", "tiny"):
        assert secret not in told
    assert len(told.splitlines()) == 4


@pytest.mark.parametrize(("name", "ours"), sorted(CALLED_OTHERWISE.items()))
def test_names_our_setting_for_another_name_of_the_same_thing(
    env_file: Path, name: str, ours: str
) -> None:
    env_file.write_text(f"{name}=whatever\n")

    (fault,) = faults_of(env_file)

    assert fault.startswith(name)
    assert ours in fault
    assert ours.lower() in Settings.model_fields


def test_leaves_other_programs_variables_alone(env_file: Path) -> None:
    env_file.write_text("SMTP_HOST=localhost\nSTRIPE_SECRET_KEY=x\nMAILTAPE_TEST_SOAK=1\n")

    read_settings(env_file)


@pytest.mark.parametrize(
    ("text", "host", "port", "written"),
    [
        ("127.0.0.1:1025", "127.0.0.1", 1025, "127.0.0.1:1025"),
        ("0.0.0.0:0", "0.0.0.0", 0, "0.0.0.0:0"),
        ("[::1]:65535", "::1", 65535, "[::1]:65535"),
        ("localhost:25", "localhost", 25, "localhost:25"),
    ],
)
def test_reads_an_address(text: str, host: str, port: int, written: str) -> None:
    address = HostPort.parse(text)

    assert address == HostPort(host, port)
    assert str(address) == written


@pytest.mark.parametrize(
    "text", ["", "1025", ":1025", "localhost", "localhost:", "h:65536", "h:-1", "::1:25", "h:٢٥"]
)
def test_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        HostPort.parse(text)


@pytest.mark.parametrize(
    ("host", "on_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("mail.example.com", False),
    ],
)
def test_knows_what_only_this_machine_reaches(host: str, on_loopback: bool) -> None:  # noqa: FBT001
    assert HostPort(host, 25).on_loopback is on_loopback


@pytest.mark.parametrize(
    ("given", "capture", "registration"),
    [
        ({}, True, True),
        ({"capture_organization": ""}, False, True),
        ({"capture_organization": "local"}, True, True),
        ({"app_env": "production", **STRONG}, False, True),
        ({"app_env": "production", "capture_organization": "local", **STRONG}, True, True),
        ({"smtp_listen": "0.0.0.0:25", "smtp_allow_anonymous": "true"}, True, False),
        ({"smtp_listen": "0.0.0.0:25", "smtp_allow_anonymous": "false"}, True, False),
        ({"smtp_listen": "0.0.0.0:25", "capture_organization": ""}, False, True),
        (
            {
                "smtp_listen": "0.0.0.0:25",
                "smtp_allow_anonymous": "true",
                "registration": "open",
            },
            True,
            True,
        ),
        ({"registration": "closed"}, True, False),
    ],
)
def test_says_who_may_do_what(
    env_file: Path,
    given: dict[str, str],
    capture: bool,  # noqa: FBT001
    registration: bool,  # noqa: FBT001
) -> None:
    settings = read_settings(env_file, **{name.lower(): value for name, value in given.items()})

    assert settings.capture is capture
    assert settings.registration_open is registration


def test_an_open_listener_that_captures_must_be_told_who_may_send(env_file: Path) -> None:
    (fault,) = faults_of(env_file, smtp_listen="0.0.0.0:25")

    assert "SMTP_ALLOW_ANONYMOUS" in fault


@pytest.mark.parametrize(
    ("secret", "weak"),
    [
        (STRONG["JWT_SECRET"], False),
        ("0123456789abcdef0123456789abcdef", False),
        ("My-Secret-For-Signing-The-Tokens-1234", True),
        ("your-secret-key-change-in-production", True),
        ("changeme-changeme-changeme-changeme", True),
    ],
)
def test_knows_a_sample_secret(secret: str, weak: bool) -> None:  # noqa: FBT001
    assert is_weak(secret) is weak


def test_every_setting_has_its_section_sentence_and_bound() -> None:
    in_sections = [name for section in SECTIONS for name in section.__annotations__]

    assert sorted(in_sections) == sorted(Settings.model_fields)
    for name in in_sections:
        field = Settings.model_fields[name]
        assert field.description, name
        assert field.description.endswith("."), name
        assert allowed(field), name


def test_every_setting_is_used_by_the_program() -> None:
    sources = "".join(
        path.read_text()
        for path in (ROOT / "backend" / "mailtape").rglob("*.py")
        if path.name != "settings_reference.py"
    )
    unused = {
        name
        for name in Settings.model_fields
        if not re.search(rf"(self|settings)\.{name}\b", sources)
    }

    assert unused == READ_AHEAD
    for name in READ_AHEAD:
        assert "Read, but this release" in (Settings.model_fields[name].description or "")


def test_the_reference_names_every_setting_and_its_default() -> None:
    reference = settings_reference.as_markdown()

    for name in Settings.model_fields:
        assert f"| `{name.upper()}` |" in reference
    assert "`30MiB`" in reference


def test_the_example_file_is_generated_and_can_be_used_as_it_is(
    env_file: Path, tmp_path: Path
) -> None:
    example = settings_reference.as_env_example()

    assert (ROOT / ".env.example").read_text() == example, "run `make docs`"
    everything = re.sub(r"^#([A-Z_]+=)", r"\1", example, flags=re.MULTILINE)
    env_file.write_text(everything.replace("CAPTURE_ORGANIZATION=\n", ""))
    assert read_settings(env_file) == read_settings(tmp_path / "none")


def test_what_is_in_force_is_shown_without_secrets(env_file: Path) -> None:
    env_file.write_text(
        "".join(f"{name}={value}\n" for name, value in STRONG.items())
        + "MAILTAPE_ADMIN_PASSWORD=correct horse battery\n"
    )

    lines = list(settings_reference.as_lines(read_settings(env_file)))

    assert f"JWT_SECRET={settings_reference.MASK}" in lines
    assert "SMTP_LISTEN=127.0.0.1:1025" in lines
    assert "CAPTURE_MAX_BYTES=10GiB" in lines
    shown = "\n".join(lines)
    assert not any(secret in shown for secret in (*STRONG.values(), "battery"))


def test_the_largest_mail_must_fit_into_what_may_be_under_way(env_file: Path) -> None:
    env_file.write_text("SMTP_MAX_MESSAGE_BYTES=40MiB\nSMTP_MAX_BYTES_IN_FLIGHT=20MiB\n")

    (fault,) = faults_of(env_file)

    assert fault.startswith("SMTP_MAX_BYTES_IN_FLIGHT is 20MiB")


def test_a_worker_has_as_long_as_the_reference_says(env_file: Path) -> None:
    assert ParserSettings().deadline_seconds == read_settings(env_file).worker_deadline_seconds


def test_when_blind_is_one_of_two_words(env_file: Path) -> None:
    assert read_settings(env_file).policy_when_blind == "defer"
    env_file.write_text("POLICY_WHEN_BLIND=accept\n")
    assert read_settings(env_file).policy_when_blind == "accept"

    env_file.write_text("POLICY_WHEN_BLIND=reject\n")
    (fault,) = faults_of(env_file)
    assert "POLICY_WHEN_BLIND" in fault
    assert "defer" in fault
